//! What may happen: a second, simple book of what was said to the scheduler, against which its decisions are held.

use std::collections::{BTreeMap, BTreeSet};

use dcluster::model::error::{ErrorKind, TaskError};
use dcluster::model::{ClientId, FutureId, Others, Placement, TaskId, WorkerId, WorkerName};
use dcluster::wire::client::{Cancel, Outcome, Placed, Submission};
use dcluster::wire::worker::{Assignment, Caution};

use super::stops::Stops;
use super::workload::{Behaviour, Catalogue, Entry};

/// Workers that die under a task before it is blamed.
const DEATHS_MAX: u32 = 3;

/// The book.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) catalogue: Catalogue,
    /// References as the scheduler has booked them.
    references: BTreeMap<(ClientId, FutureId), Entry>,
    /// How many references there are to each entry.
    counts: Vec<u32>,
    /// Futures that somebody's cancel may have ended.
    may_be_cancelled: BTreeSet<(ClientId, FutureId)>,
    cancelled: BTreeSet<(ClientId, FutureId)>,
    /// Watches that are not answered.
    watches: BTreeSet<(ClientId, FutureId)>,
    /// Assignments that are not answered.
    open: BTreeMap<(WorkerId, TaskId), Open>,
    /// Where each entry is assigned and not abandoned.
    current: BTreeMap<Entry, (WorkerId, TaskId)>,
    /// Per entry: when it was assigned last, counted in assignments.
    assigned_at: Vec<u64>,
    assignments: u64,
    /// Tasks that a worker gave back, and when. They may be assigned again under the same id.
    returned: BTreeMap<TaskId, u64>,
    /// Ids under which a value was made: what is made again has another.
    made: BTreeSet<TaskId>,
    /// Scattered values under the ids at which they were sent, and the workers that may have one.
    copies: BTreeMap<TaskId, Copies>,
    /// Futures whose client sends the value, and the id under which it does.
    senders: BTreeMap<(ClientId, FutureId), (Entry, Option<TaskId>)>,
    /// Those whose values are not sent, as the key is known: they send when the sender stops.
    heirs: BTreeMap<(ClientId, FutureId), Entry>,
    /// Per entry: whether something befell a copy of it, or its sending.
    may_be_lost: Vec<bool>,
    /// Per entry: workers that died and had it, and whether it really ran there.
    deaths: Vec<Vec<(WorkerId, Ran)>>,
    /// Per entry: how many of these the scheduler has to count.
    toll: Vec<u32>,
    stops: Stops,
    /// Workers that have died, whether or not the scheduler knows.
    dead: BTreeSet<WorkerId>,
    /// Workers that have joined, with their ranks and hosts.
    seats: BTreeMap<WorkerId, (Option<u32>, String)>,
    /// Per entry: whether at some time no worker was there that it may run on.
    had_no_worker: Vec<bool>,
    /// The copy that a client could not fetch, while the scheduler books that.
    pub(crate) doubted: Option<(WorkerId, TaskId)>,
    /// Per entry: runs that ended in an error, or the worker's death.
    pub(crate) bad_runs: Vec<u32>,
    /// Whether a value may have been lost.
    pub(crate) is_lossy: bool,
    /// Values that somebody came to want after their last use.
    pub(crate) remade: u64,
    /// Tasks that ran.
    pub(crate) runs: u64,
    /// Assignments taken back for good.
    pub(crate) abandoned: u64,
    /// Followers that were given back, and sent again after sources that were assigned before that.
    pub(crate) refollowed: u64,
    /// Cancels acknowledged.
    pub(crate) acknowledged: u64,
    /// Copies that workers were asked to get, and that have not come.
    acquiring: BTreeSet<(WorkerId, TaskId)>,
    /// How many there were.
    pub(crate) acquired: u64,
    /// Requests for copies that came true.
    pub(crate) replicated: u64,
    /// Values that were moved.
    pub(crate) moved: u64,
    /// Assignments of tasks that may run on certain workers only.
    pub(crate) bound: u64,
    /// Failures because there was no such worker.
    pub(crate) without_worker: u64,
    /// Failures told that blame a task for its workers' deaths.
    pub(crate) blamed: u64,
}

/// A scattered value on its way, and where it has arrived.
#[derive(Debug)]
struct Copies {
    entry: Entry,
    workers: BTreeSet<WorkerId>,
    has_arrived: bool,
}

/// An assignment that is not answered.
#[derive(Debug)]
struct Open {
    entry: Entry,
    caution: Caution,
    ran: Ran,
    /// Whether the scheduler has heard that it starts.
    is_said: bool,
}

/// Whether a thread has taken an assignment up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ran {
    No,
    Yes,
}

impl Ledger {
    pub(crate) fn new(catalogue: Catalogue) -> Self {
        let len = catalogue.specs.len();
        Self {
            catalogue,
            references: BTreeMap::new(),
            counts: vec![0; len],
            may_be_cancelled: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            watches: BTreeSet::new(),
            open: BTreeMap::new(),
            current: BTreeMap::new(),
            assigned_at: vec![0; len],
            assignments: 0,
            returned: BTreeMap::new(),
            made: BTreeSet::new(),
            copies: BTreeMap::new(),
            senders: BTreeMap::new(),
            heirs: BTreeMap::new(),
            may_be_lost: vec![false; len],
            deaths: vec![Vec::new(); len],
            toll: vec![0; len],
            stops: Stops::default(),
            dead: BTreeSet::new(),
            seats: BTreeMap::new(),
            had_no_worker: vec![true; len],
            doubted: None,
            bad_runs: vec![0; len],
            is_lossy: false,
            remade: 0,
            runs: 0,
            abandoned: 0,
            refollowed: 0,
            acknowledged: 0,
            acquiring: BTreeSet::new(),
            acquired: 0,
            replicated: 0,
            moved: 0,
            bound: 0,
            without_worker: 0,
            blamed: 0,
        }
    }

    /// The scheduler books a call. One that takes a cancelled future is cancelled.
    pub(crate) fn submitted(&mut self, client: ClientId, call: &Submission<'_>) {
        let future = (client, call.future);
        if call.inputs.iter().all(|input| self.references.contains_key(&(client, *input))) {
            self.refer(client, call.future, Catalogue::entry(call.arguments));
        } else {
            self.may_be_cancelled.insert(future);
            self.cancelled.insert(future);
        }
    }

    pub(crate) fn refer(&mut self, client: ClientId, future: FutureId, entry: Entry) {
        if self.counts[entry] == 0 {
            self.forgive(entry);
        }
        self.counts[entry] += 1;
        assert_eq!(self.references.insert((client, future), entry), None, "a future is taken once");
    }

    /// A client announces a value that it will send.
    pub(crate) fn scattered(&mut self, client: ClientId, future: FutureId, entry: Entry) {
        self.refer(client, future, entry);
        self.senders.insert((client, future), (entry, None));
    }

    /// The scheduler says where a value goes, under an id that none had before.
    pub(crate) fn placed(&mut self, client: ClientId, placed: &Placed) {
        let future = (client, placed.future);
        let Some(worker) = placed.worker else {
            let (entry, _) = self.senders.remove(&future).expect("a client announces what it sends");
            self.heirs.insert(future, entry);
            return;
        };
        if let Some(entry) = self.heirs.remove(&future) {
            self.senders.insert(future, (entry, None));
        }
        let sender = self.senders.get_mut(&future).expect("a client sends what it announced");
        sender.1 = Some(placed.task);
        let copies = Copies { entry: sender.0, workers: BTreeSet::from([worker]), has_arrived: false };
        let before = self.copies.insert(placed.task, copies);
        assert!(before.is_none(), "{} names a value that was sent before", placed.task);
    }

    /// A client says that it does not send a value.
    pub(crate) fn given_up(&mut self, client: ClientId, future: FutureId) {
        if let Some((entry, _)) = self.senders.get(&(client, future)) {
            self.may_be_lost[*entry] = true;
        }
    }

    /// A worker says that it has a copy. It may have died since.
    pub(crate) fn holds(&mut self, worker: WorkerId, task: TaskId) {
        self.acquiring.remove(&(worker, task));
        if let Some(copies) = self.copies.get_mut(&task)
            && !self.dead.contains(&worker)
        {
            copies.has_arrived |= copies.workers.contains(&worker);
            copies.workers.insert(worker);
        }
    }

    /// The scheduler asks a worker to get a copy.
    pub(crate) fn acquires(&mut self, worker: WorkerId, task: TaskId) {
        self.acquired += 1;
        self.acquiring.insert((worker, task));
        let has_it = self.copies.get(&task).is_some_and(|copies| copies.workers.contains(&worker));
        assert!(!has_it, "{worker} is to get a copy of {task}, and has one");
    }

    /// The scheduler tells a client what became of copies and moves that it asked for.
    pub(crate) fn arranged(&mut self, answer: &Result<String, String>) {
        let Ok(text) = answer else { return };
        let summary: serde_json::Value = serde_json::from_str(text).expect("answers are JSON");
        match summary["moved"].as_u64() {
            Some(moved) => self.moved += moved,
            None => self.replicated += 1,
        }
    }

    /// A copy was not handed out.
    pub(crate) fn endangered(&mut self, task: TaskId) {
        if let Some(copies) = self.copies.get(&task) {
            self.may_be_lost[copies.entry] = true;
        }
    }

    /// A worker is about to be gone with what it has; the scheduler may hear of that from others first.
    pub(crate) fn worker_dies(&mut self, worker: WorkerId) {
        self.is_lossy = true;
        self.dead.insert(worker);
        for copies in self.copies.values_mut() {
            if copies.workers.remove(&worker) && copies.workers.is_empty() {
                self.may_be_lost[copies.entry] = true;
            }
        }
    }

    /// What failed, of an entry and what it is made from, starts afresh.
    pub(crate) fn retried(&mut self, client: ClientId, future: FutureId) {
        // What a retry needs again may have been scattered, and given back since.
        self.is_lossy = true;
        if let Some(&entry) = self.references.get(&(client, future)) {
            self.forgive(entry);
        }
    }

    pub(crate) fn watched(&mut self, client: ClientId, future: FutureId) {
        self.watches.insert((client, future));
    }

    pub(crate) fn released(&mut self, client: ClientId, future: FutureId) {
        self.watches.remove(&(client, future));
        self.cancelled.remove(&(client, future));
        self.unrefer(client, future);
    }

    /// What a cancel may end: the client's own futures on what is made from the named ones, or everybody's.
    pub(crate) fn cancels(&mut self, client: ClientId, cancel: &Cancel) {
        self.stops.begin(client, cancel);
        for future in &cancel.futures {
            let Some(entry) = self.references.get(&(client, *future)) else { continue };
            let descendants = self.catalogue.descendants(*entry);
            for (&(owner, future), &entry) in &self.references {
                if descendants[entry] && (cancel.force || owner == client) {
                    self.may_be_cancelled.insert((owner, future));
                }
            }
        }
    }

    /// The cancel is booked: what it named is cancelled.
    pub(crate) fn has_cancelled(&mut self, client: ClientId, cancel: &Cancel) {
        self.stops.end();
        for future in &cancel.futures {
            assert!(self.cancelled.contains(&(client, *future)), "{client} cancels {future:?} in vain");
        }
    }

    pub(crate) fn client_left(&mut self, client: ClientId) {
        self.is_lossy = true;
        let own: Vec<FutureId> =
            self.references.keys().filter(|(owner, _)| *owner == client).map(|(_, future)| *future).collect();
        own.into_iter().for_each(|future| self.unrefer(client, future));
        self.watches.retain(|(owner, _)| *owner != client);
        self.cancelled.retain(|(owner, _)| *owner != client);
    }

    pub(crate) fn worker_joined(&mut self, worker: WorkerId, rank: Option<u32>, host: &str) {
        self.seats.insert(worker, (rank, host.to_owned()));
    }

    pub(crate) fn worker_left(&mut self, worker: WorkerId, planned: bool) {
        self.seats.remove(&worker);
        for entry in 0..self.had_no_worker.len() {
            self.had_no_worker[entry] |= !self.seats.keys().any(|worker| self.is_permitted(entry, *worker));
        }
        self.worker_dies(worker);
        for ((_, task), open) in self.open.extract_if(.., |(on, _), _| *on == worker) {
            if planned || self.current.get(&open.entry) != Some(&(worker, task)) {
                continue;
            }
            self.deaths[open.entry].push((worker, open.ran));
            let is_known = open.caution == Caution::None || open.is_said;
            self.toll[open.entry] += u32::from(open.ran == Ran::Yes && is_known);
        }
        self.current.retain(|_, (on, _)| *on != worker);
    }

    /// The scheduler assigns a task: somebody wants it, and no other worker has it.
    pub(crate) fn assigned(&mut self, worker: WorkerId, assignment: &Assignment<'_>) {
        let Assignment { task, arguments, caution, .. } = *assignment;
        let entry = Catalogue::entry(arguments);
        assert!(self.toll[entry] < DEATHS_MAX, "entry {entry} killed {DEATHS_MAX} workers, and gets another");
        assert_eq!(arguments, self.catalogue.arguments(entry), "arguments of {entry}");
        assert!(self.is_wanted(entry), "entry {entry} is assigned to {worker}, and nobody wants it");
        assert!(
            !self.made.contains(&task),
            "{task} is assigned after it was made: what is made again has another id"
        );
        assert!(
            self.is_permitted(entry, worker),
            "entry {entry} is assigned to {worker}, which it does not name"
        );
        self.bound += u64::from(self.is_restricted(entry));
        self.count_followed_again(entry, task);
        self.assignments += 1;
        self.assigned_at[entry] = self.assignments;
        let before = self.current.insert(entry, (worker, task));
        assert_eq!(before, None, "entry {entry} is assigned to {worker} while another worker has it");
        let open = Open { entry, caution, ran: Ran::No, is_said: false };
        let before = self.open.insert((worker, task), open);
        assert!(before.is_none(), "{task} is assigned to {worker} twice");
    }

    pub(crate) fn abandoned(&mut self, worker: WorkerId, task: TaskId) {
        self.abandoned += 1;
        let open = self.open.get(&(worker, task)).expect("only what is assigned is abandoned");
        assert_eq!(self.current.remove(&open.entry), Some((worker, task)), "{task} is abandoned where it is");
        self.stops.stop(worker, task);
    }

    /// A thread takes a task up.
    pub(crate) fn starts(&mut self, worker: WorkerId, task: TaskId) {
        self.stops.check_start(worker, task);
        // The scheduler may take the worker for dead already.
        if let Some(open) = self.open.get_mut(&(worker, task)) {
            assert_eq!(open.ran, Ran::No, "{task} starts twice on {worker}");
            open.ran = Ran::Yes;
        }
    }

    /// The scheduler hears that a task is about to start.
    pub(crate) fn said_to_start(&mut self, worker: WorkerId, task: TaskId) {
        let open = self.open.get_mut(&(worker, task)).expect("what is given back does not start");
        assert_eq!(open.caution, Caution::Announce, "{task} is announced, and nobody asked for that");
        open.is_said = true;
    }

    /// The scheduler tells a client that its cancel cannot be undone by anything that starts.
    pub(crate) fn acknowledged(&mut self, client: ClientId, number: u32) {
        self.acknowledged += 1;
        self.stops.acknowledge(client, number);
    }

    /// A worker says that its copy is gone.
    pub(crate) fn lost(&mut self, worker: WorkerId, task: TaskId) {
        if let Some(copies) = self.copies.get_mut(&task) {
            copies.workers.remove(&worker);
        }
    }

    /// A holder is to drop its copy. On a client's word it is the one that the client asked for, or that of a
    /// value which has been moved: the order whose turn it then is may be done already.
    pub(crate) fn freed(&mut self, worker: WorkerId, task: TaskId) {
        let is_there = !self.acquiring.remove(&(worker, task));
        let has_more = self.copies.get(&task).is_some_and(|copies| copies.workers.len() > 1);
        let is_doubted = self.doubted.is_none_or(|copy| copy == (worker, task)) || has_more;
        assert!(is_doubted || !is_there, "a good copy of {task} is dropped");
        if let Some(copies) = self.copies.get_mut(&task)
            && copies.workers.remove(&worker)
            && copies.workers.is_empty()
        {
            self.may_be_lost[copies.entry] = true;
        }
    }

    /// A worker's report of a result has arrived. What an abandoned assignment has made counts for nothing.
    pub(crate) fn finished(&mut self, worker: WorkerId, task: TaskId) {
        if let Some(entry) = self.answered(worker, task) {
            self.toll[entry] = 0;
            self.made.insert(task);
        }
    }

    /// Whether a task that was given back follows again, though nothing that it awaits was assigned since.
    fn count_followed_again(&mut self, entry: Entry, task: TaskId) {
        let Some(returned_at) = self.returned.remove(&task) else { return };
        let inputs = &self.catalogue.specs[entry].inputs;
        let mut awaited = inputs.iter().filter(|input| self.current.contains_key(input)).peekable();
        let is_following = awaited.peek().is_some();
        if is_following && awaited.all(|input| self.assigned_at[*input] <= returned_at) {
            self.refollowed += 1;
        }
    }

    pub(crate) fn returned(&mut self, worker: WorkerId, task: TaskId) {
        self.returned.insert(task, self.assignments);
        self.answered(worker, task);
    }

    /// A worker's answer to an assignment has arrived. The entry, unless it was abandoned.
    pub(crate) fn answered(&mut self, worker: WorkerId, task: TaskId) -> Option<Entry> {
        let Open { entry, .. } = self.open.remove(&(worker, task)).expect("one answer per assignment");
        let is_current = self.current.get(&entry) == Some(&(worker, task));
        if is_current {
            self.current.remove(&entry);
        }
        is_current.then_some(entry)
    }

    /// The scheduler tells a client how a future ended: asked for, or cancelled with reason.
    pub(crate) fn told(&mut self, client: ClientId, future: FutureId, outcome: &Outcome<'_>) {
        let future = (client, future);
        if let Outcome::Cancelled(reason) = outcome {
            assert!(self.may_be_cancelled.contains(&future), "{future:?} is cancelled, and nobody did that");
            assert_eq!(*reason, "no longer needed");
            self.watches.remove(&future);
            self.cancelled.insert(future);
            self.stops.cancelled(future);
            return self.unrefer(future.0, future.1);
        }
        assert!(self.watches.remove(&future), "{future:?} is told without having been watched");
        if let Outcome::Failed(error) = outcome {
            self.check_failure(self.references[&future], error);
        }
    }

    /// Panics unless `entry` may end in this error.
    fn check_failure(&mut self, entry: Entry, error: &[u8]) {
        let error = TaskError::unpack(error);
        let shown = error.key.as_deref().expect("an error names its key");
        let root = self.catalogue.shown(shown).expect("an error names a known key");
        assert!(self.catalogue.descends(entry, root), "{entry} fails for {root}, which it is not made from");
        let spec = &self.catalogue.specs[root];
        let is_allowed = match (&error.kind, spec.behaviour) {
            (ErrorKind::Error, Behaviour::Fails(runs)) => runs > u32::from(spec.retries),
            (ErrorKind::UnknownFunction, Behaviour::Unknown) => true,
            (ErrorKind::WorkersDied { workers }, _) => self.are_its_deaths(root, workers),
            (ErrorKind::NoValidWorker, _) => self.is_restricted(root) && self.had_no_worker[root],
            (ErrorKind::DataLost { .. }, Behaviour::Scattered) => self.may_be_lost[root],
            (ErrorKind::InputTooLarge { bytes, bytes_max }, _) => {
                let has_size = |input: &Entry| self.catalogue.specs[*input].nbytes == *bytes;
                bytes > bytes_max && spec.inputs.iter().any(has_size)
            }
            _ => false,
        };
        assert!(is_allowed, "entry {entry} fails for {root} ({spec:?}): {error}");
        self.without_worker += u64::from(error.kind == ErrorKind::NoValidWorker);
        self.blamed += u64::from(matches!(error.kind, ErrorKind::WorkersDied { .. }));
    }

    /// Whether these workers died while they ran the entry. The first may only have been given it: what it had
    /// started last it did not live to say.
    fn are_its_deaths(&self, entry: Entry, workers: &[String]) -> bool {
        let deaths = self.deaths[entry].iter().map(|(worker, ran)| (worker.to_string(), *ran));
        let deaths: BTreeMap<String, Ran> = deaths.collect();
        let ran = |place: usize| deaths.get(&workers[place]).copied();
        let distinct: BTreeSet<&String> = workers.iter().collect();
        workers.len() == DEATHS_MAX as usize
            && distinct.len() == workers.len()
            && ran(0).is_some()
            && (1..workers.len()).all(|place| ran(place) == Some(Ran::Yes))
    }

    fn is_restricted(&self, entry: Entry) -> bool {
        let placement = self.catalogue.specs[entry].placement.as_deref();
        placement.is_some_and(|placement| placement.others() == Others::Refused)
    }

    /// Whether the entry may run on the worker, which is there.
    fn is_permitted(&self, entry: Entry, worker: WorkerId) -> bool {
        let (rank, host) = &self.seats[&worker];
        match self.catalogue.specs[entry].placement.as_deref() {
            Some(Placement::On { workers, others: Others::Refused }) => {
                workers.iter().any(|name| match name {
                    WorkerName::Id(id) => *id == worker,
                    WorkerName::Rank(named) => Some(*named) == *rank,
                    WorkerName::Host(named) => named == host,
                })
            }
            _ => true,
        }
    }

    /// Whether a client refers to the entry, or to anything made from it.
    fn is_wanted(&self, entry: Entry) -> bool {
        let (mut seen, mut work) = (BTreeSet::new(), vec![entry]);
        while let Some(entry) = work.pop() {
            if self.counts[entry] > 0 {
                return true;
            }
            if seen.insert(entry) {
                work.extend(&self.catalogue.children[entry]);
            }
        }
        false
    }

    /// The scheduler may forget who died under the entry, and under what it is made from.
    fn forgive(&mut self, entry: Entry) {
        let (mut seen, mut work) = (BTreeSet::new(), vec![entry]);
        while let Some(entry) = work.pop() {
            if seen.insert(entry) {
                self.toll[entry] = 0;
                work.extend(&self.catalogue.specs[entry].inputs);
            }
        }
    }

    fn unrefer(&mut self, client: ClientId, future: FutureId) {
        // A value does not come if its sender gives up before it has arrived.
        if let Some((entry, task)) = self.senders.remove(&(client, future)) {
            let copies = task.and_then(|task| self.copies.get(&task));
            self.may_be_lost[entry] |= !copies.is_some_and(|copies| copies.has_arrived);
        }
        self.heirs.remove(&(client, future));
        if let Some(entry) = self.references.remove(&(client, future)) {
            self.counts[entry] -= 1;
            if !self.is_wanted(entry) {
                self.forgive(entry);
            }
        }
    }
}
