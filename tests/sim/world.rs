//! A cluster in one thread: nodes, what is on its way between them, and the faults that befall them.
//!
//! First anything may happen. Then faults stop, and everything must come to its end within a bound of events.
//! At last all futures are given back, and nothing may be left anywhere.

use std::collections::{BTreeMap, BTreeSet};

use dcluster::model::{ClientId, FutureId, TaskId, WorkerId};
use dcluster::scheduler::core::Tuning;
use dcluster::wire::client::Fault;
use dcluster::worker::core::ThreadId;

use super::client::Client;
use super::ledger::Ledger;
use super::network::{Asker, Event, Network, Node, Stored};
use super::plan::Plan;
use super::random::Random;
use super::scheduler::Scheduler;
use super::summary::Summary;
use super::worker::{Incoming, Start, Worker};
use super::workload::{Behaviour, Entry};

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(super) plan: Plan,
    pub(super) random: Random,
    pub(super) network: Network,
    scheduler: Scheduler,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    clients: BTreeMap<ClientId, Client>,
    pub(super) ledger: Ledger,
    next_worker: u32,
    next_client: u32,
    /// Connections whose writer is about to write.
    flushing: BTreeSet<(Node, Node)>,
    is_placing: bool,
    /// When the scheduler places though nothing happens.
    deadline_us: Option<u64>,
    pub(super) is_calm: bool,
    events: u64,
    /// Workers that are about to look at their memory.
    pub(super) watching: BTreeSet<WorkerId>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let random = &mut random;
        let plan = Plan::new(seed, random);
        let catalogue = plan.catalogue(random);
        let tuning = Tuning {
            round_trip_us: random.pick(&[50, 500, 5000]),
            depth_max: random.pick(&[1, 4, 64]),
            placement_wait_us: random.pick(&[1_000, 100_000, 10_000_000]),
            seed: random.next(),
            ..Tuning::default()
        };
        let mut world = Self {
            network: Network::new(random),
            random: random.clone(),
            scheduler: Scheduler::new(tuning),
            workers: BTreeMap::new(),
            clients: BTreeMap::new(),
            ledger: Ledger::new(catalogue),
            next_worker: 0,
            next_client: 0,
            flushing: BTreeSet::new(),
            is_placing: false,
            deadline_us: None,
            is_calm: false,
            events: 0,
            watching: BTreeSet::new(),
            plan,
        };
        world.begin();
        world
    }

    /// Runs to the end, through all phases.
    pub(crate) fn run(mut self) -> Summary {
        self.run_until_quiet("settle");
        assert!(!self.workers.is_empty(), "a worker is left");
        let unsettled: Vec<_> = self.unsettled();
        assert!(unsettled.is_empty(), "these never end:\n{}", unsettled.join("\n"));
        self.check_settled();
        for client in self.clients.values_mut() {
            client.release_all();
        }
        let clients: Vec<_> = self.clients.keys().copied().collect();
        for client in clients {
            if self.random.chance(50) {
                self.clients.get_mut(&client).expect("just listed").outbox.close();
            }
            self.flush_soon(Node::Client(client), Node::Scheduler);
        }
        self.run_until_quiet("be forgotten");
        assert_eq!(self.scheduler.core.tasks_len(), 0, "tasks are left that nobody wants");
        self.workers.values().for_each(Worker::check_empty);
        self.check();
        let totals = self.scheduler.core.totals();
        Summary {
            events: self.events,
            runs: self.ledger.runs,
            recomputed: totals.recomputed,
            stolen: totals.stolen,
            submitted: totals.submitted,
            abandoned: self.ledger.abandoned,
            refollowed: self.ledger.refollowed,
            acknowledged: self.ledger.acknowledged,
            bound: self.ledger.bound,
            acquired: self.ledger.acquired,
            replicated: self.ledger.replicated,
            moved: self.ledger.moved,
            without_worker: self.ledger.without_worker,
            blamed: self.ledger.blamed,
            spills: self.workers.values().map(|worker| worker.floor.spills).sum(),
            fills: self.workers.values().map(|worker| worker.floor.fills).sum(),
            refusals: self.workers.values().map(|worker| worker.floor.refusals).sum(),
            pauses: self.workers.values().map(|worker| worker.floor.pauses).sum(),
        }
    }

    /// Says who joins, connects and leaves when.
    fn begin(&mut self) {
        let calm_at_us = self.plan.calm_at_us;
        for _ in 0..self.plan.workers {
            let at = if self.random.chance(80) { 0 } else { self.random.below(calm_at_us) };
            self.network.after(at, Event::Join);
        }
        for _ in 0..self.plan.clients {
            let at = if self.random.chance(50) { 0 } else { self.random.below(calm_at_us) };
            self.network.after(at, Event::Connect);
        }
        for _ in 0..self.plan.workers.min(20) {
            let at = self.random.below(calm_at_us);
            let worker = WorkerId(self.random.below(self.plan.workers) as u32);
            self.network.after(at, Event::Sampled { worker });
        }
        for _ in 0..self.plan.leaves {
            let at = self.random.below(calm_at_us);
            let event = match self.random.below(10) {
                0..2 if self.plan.clients > 1 => {
                    Event::Disconnect { client: ClientId(self.random.below(self.plan.clients) as u32) }
                }
                draw => Event::Leave {
                    worker: WorkerId(self.random.below(self.plan.workers + self.plan.leaves) as u32),
                    planned: draw < 4,
                },
            };
            self.network.after(at, event);
            if self.random.chance(70) {
                let later = at + self.random.below(calm_at_us);
                self.network.after(later, Event::Join);
            }
        }
    }

    fn run_until_quiet(&mut self, what: &str) {
        let entries = self.ledger.catalogue.specs.len() as u64;
        let mut calm_events_left = 20_000 + 1000 * entries + 400 * self.plan.workers;
        loop {
            while let Some(event) = self.network.next() {
                if self.is_calm {
                    calm_events_left -= 1;
                    assert!(calm_events_left > 0, "work does not {what}; {}", self.unsettled().join("\n"));
                }
                self.events += 1;
                self.happen(event);
                let stride = 1 + self.scheduler.core.tasks_len() as u64 / 32 + self.plan.workers / 32;
                if self.events.is_multiple_of(stride) {
                    self.check();
                }
            }
            if self.is_calm && !self.workers.is_empty() {
                return;
            }
            self.calm_down();
        }
    }

    /// No more faults, a worker at least, and everybody waits for what is theirs.
    fn calm_down(&mut self) {
        self.is_calm = true;
        if self.workers.is_empty() {
            self.network.after(0, Event::Join);
        }
        self.watch_all();
        let clients: Vec<_> = self.clients.keys().copied().collect();
        for client in clients {
            self.clients.get_mut(&client).expect("just listed").watch_all();
            self.flush_soon(Node::Client(client), Node::Scheduler);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to: Node::Scheduler, bytes } => {
                self.scheduler.hear(from, &bytes, &mut self.ledger);
                self.place_soon();
            }
            Event::Deliver { to: Node::Worker(id), bytes, .. } => {
                self.with_worker(id, |worker| worker.hear(&bytes));
            }
            Event::Deliver { to: Node::Client(id), bytes, .. } => {
                let (random, catalogue) = (&mut self.random, &self.ledger.catalogue);
                if let Some(client) = self.clients.get_mut(&id) {
                    client.hear(random, catalogue, &bytes);
                }
                self.after_client(id);
            }
            Event::Closed { peer, planned } => {
                self.scheduler.closed(peer, planned, &mut self.ledger);
                self.place_soon();
            }
            Event::Flush { from, to } => self.flush(from, to),
            Event::Place => {
                self.is_placing = false;
                self.scheduler.place(self.network.now, &mut self.ledger);
                self.deliver_mail();
                self.scheduler.core.check_progress();
                self.place_in_time();
            }
            Event::RunEnds { worker, thread, task, entry, duration_us } => {
                self.run_ends(worker, thread, task, entry, duration_us);
            }
            Event::Ask { asker, holder, task } => {
                let value = match self.workers.get(&holder) {
                    Some(worker) => worker.floor.store.get(&task).copied().ok_or(Fault::NotHere),
                    None => Err(Fault::NotReached),
                };
                let is_lost = !self.is_calm && self.random.chance(self.plan.flaky_percent);
                if is_lost && matches!(asker, Asker::Worker(_)) {
                    self.ledger.is_lossy = true;
                    self.ledger.endangered(task);
                }
                let value = if is_lost { Err(Fault::NotReached) } else { value };
                self.network.apart(&mut self.random, Event::Answer { asker, holder, task, value });
            }
            Event::Answer { asker: Asker::Worker(id), task, value, .. } => {
                self.with_worker(id, |worker| worker.fetched(task, value.ok()));
            }
            Event::Answer { asker: Asker::Client(id, future), holder, task, value } => {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.fetched(&mut self.random, &self.ledger.catalogue, future, (task, holder), value);
                }
                self.after_client(id);
            }
            Event::Put { client, future, worker, task, value } => {
                self.put(client, future, worker, task, value)
            }
            Event::PutEnds { worker, put } => self.with_worker(worker, |worker| worker.put_ends(put)),
            Event::PutHurries { worker, put } => self.with_worker(worker, |worker| worker.put_hurries(put)),
            Event::PutFailed { client, future, worker, task } => {
                self.ledger.is_lossy = true;
                if let Some(client) = self.clients.get_mut(&client) {
                    client.put_failed(&mut self.random, future, task, worker);
                }
                self.after_client(client);
            }
            Event::Spilled { worker } => self.spilled(worker),
            Event::Unspilled { worker, task, ticket } => self.unspilled(worker, task, ticket),
            Event::Sampled { worker } => self.sampled(worker),
            Event::Act { client } => self.act(client),
            Event::Join => self.join(),
            Event::Leave { worker, planned } => self.leave(worker, planned),
            Event::Connect => self.connect(),
            Event::Disconnect { client } => self.disconnect(client),
        }
    }

    fn act(&mut self, id: ClientId) {
        if self.network.now >= self.plan.calm_at_us {
            return;
        }
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.act(&mut self.random, &self.ledger.catalogue);
        self.after_client(id);
        let delay_us = self.random.between(1, 2 * self.plan.calm_at_us / self.plan.actions_max);
        self.network.after(delay_us, Event::Act { client: id });
    }

    fn join(&mut self) {
        let id = WorkerId(self.next_worker);
        self.next_worker += 1;
        let threads = self.random.between(1, self.plan.threads_max) as u32;
        self.workers.insert(id, Worker::new(id, threads, self.plan.memory_bytes_max));
        self.scheduler.accept(Node::Worker(id));
        self.flush_soon(Node::Worker(id), Node::Scheduler);
    }

    /// A worker's end. What it wrote last may be lost with it, unless it leaves as planned.
    fn leave(&mut self, worker: WorkerId, planned: bool) {
        let Some(left) = self.workers.remove(&worker) else { return };
        for Incoming { client, future, task, .. } in left.floor.puts.into_values() {
            self.network.apart(&mut self.random, Event::PutFailed { client, future, worker, task });
        }
        self.ledger.worker_dies(worker);
        let (peer, closed) = (Node::Worker(worker), Event::Closed { peer: Node::Worker(worker), planned });
        match planned || self.random.chance(50) {
            true => self.network.along(&mut self.random, peer, Node::Scheduler, closed),
            false => self.network.apart(&mut self.random, closed),
        }
        if self.is_calm || self.random.chance(30) {
            self.network.after(1000, Event::Join);
        }
    }

    fn connect(&mut self) {
        let id = ClientId(self.next_client);
        self.next_client += 1;
        self.clients.insert(id, Client::new(id, self.plan.turnover_percent));
        self.scheduler.accept(Node::Client(id));
        self.network.after(0, Event::Act { client: id });
    }

    fn disconnect(&mut self, client: ClientId) {
        if self.clients.remove(&client).is_none() {
            return;
        }
        let (peer, closed) =
            (Node::Client(client), Event::Closed { peer: Node::Client(client), planned: false });
        match self.random.chance(50) {
            true => self.network.along(&mut self.random, peer, Node::Scheduler, closed),
            false => self.network.apart(&mut self.random, closed),
        }
    }

    fn put(&mut self, client: ClientId, future: FutureId, worker: WorkerId, task: TaskId, value: Stored) {
        let is_lost = !self.is_calm && self.random.chance(self.plan.flaky_percent);
        if !is_lost && self.workers.contains_key(&worker) {
            let incoming = Incoming { client, future, task, value };
            return self.with_worker(worker, |worker| worker.expect_put(incoming));
        }
        self.network.apart(&mut self.random, Event::PutFailed { client, future, worker, task });
    }

    /// Lets something happen to a worker, and does what it then asks for.
    pub(super) fn with_worker(&mut self, id: WorkerId, event: impl FnOnce(&mut Worker)) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        event(worker);
        worker.check();
        let (starts, fetches) =
            (std::mem::take(&mut worker.floor.starts), std::mem::take(&mut worker.floor.fetches));
        for start in starts {
            self.start(id, &start);
        }
        for (task, holder) in fetches {
            assert_ne!(holder, id, "a worker asks itself");
            let ask = Event::Ask { asker: Asker::Worker(id), holder, task };
            self.network.apart(&mut self.random, ask);
        }
        self.after_memory(id);
        self.flush_soon(Node::Worker(id), Node::Scheduler);
    }

    fn start(&mut self, worker: WorkerId, start: &Start) {
        let Start { thread, task, entry, ref inputs } = *start;
        self.ledger.starts(worker, task);
        let spec = &self.ledger.catalogue.specs[entry];
        self.ledger.runs += 1;
        assert_eq!(spec.run(entry, inputs), spec.value, "entry {entry} runs on what its inputs came to");
        let duration_us = self.random.between(spec.duration_us / 2, spec.duration_us * 2);
        if let Behaviour::Kills(runs) = spec.behaviour
            && self.ledger.bad_runs[entry] < runs
        {
            self.ledger.bad_runs[entry] += 1;
            self.network.after(duration_us / 2, Event::Leave { worker, planned: false });
        }
        self.network.after(duration_us, Event::RunEnds { worker, thread, task, entry, duration_us });
    }

    fn run_ends(&mut self, id: WorkerId, thread: ThreadId, task: TaskId, entry: Entry, duration_us: u64) {
        if !self.workers.contains_key(&id) {
            return;
        }
        let spec = &self.ledger.catalogue.specs[entry];
        let outcome = match spec.behaviour {
            Behaviour::Fails(runs) if self.ledger.bad_runs[entry] < runs => {
                self.ledger.bad_runs[entry] += 1;
                Err(format!("entry {entry} fails"))
            }
            _ => Ok(Stored { value: spec.value, nbytes: spec.nbytes, is_inline: spec.is_inline() }),
        };
        self.with_worker(id, |worker| worker.ended(thread, task, duration_us, outcome));
    }

    /// Does what a client asks for.
    fn after_client(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let (fetches, puts) = (std::mem::take(&mut client.fetches), std::mem::take(&mut client.puts));
        for (future, task, holder) in fetches {
            let ask = Event::Ask { asker: Asker::Client(id, future), holder, task };
            self.network.apart(&mut self.random, ask);
        }
        for (future, task, worker, value) in puts {
            let put = Event::Put { client: id, future, worker, task, value };
            self.network.apart(&mut self.random, put);
        }
        self.flush_soon(Node::Client(id), Node::Scheduler);
    }

    fn place_soon(&mut self) {
        if !std::mem::replace(&mut self.is_placing, true) {
            let delay_us = self.random.below(self.plan.mail_us_max);
            self.network.after(delay_us, Event::Place);
        }
        if self.random.chance(20) {
            self.deliver_mail();
        }
    }

    /// Has the scheduler place at its next deadline.
    fn place_in_time(&mut self) {
        let deadline_us = self.scheduler.core.next_deadline().map(|deadline| deadline.0);
        if let Some(at) = deadline_us
            && deadline_us != self.deadline_us
        {
            self.network.after(at - self.network.now, Event::Place);
        }
        self.deadline_us = deadline_us;
    }

    fn deliver_mail(&mut self) {
        for peer in std::mem::take(&mut self.scheduler.post.with_mail) {
            self.flush_soon(Node::Scheduler, peer);
        }
    }

    /// Has a writer write what gathers until it comes to it.
    fn flush_soon(&mut self, from: Node, to: Node) {
        if self.flushing.insert((from, to)) {
            let delay_us = self.random.below(self.plan.mail_us_max);
            self.network.after(delay_us, Event::Flush { from, to });
        }
    }

    fn flush(&mut self, from: Node, to: Node) {
        self.flushing.remove(&(from, to));
        let (mut frames, mut announced) = (Vec::new(), Vec::new());
        match from {
            Node::Scheduler => frames = self.scheduler.take_mail(to),
            Node::Worker(id) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    announced = worker.take_mail(&mut frames);
                }
            }
            Node::Client(id) => {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.outbox.outbox().swap_into(&mut frames);
                }
            }
        }
        if frames.is_empty() {
            return;
        }
        // Connections carry bytes: a frame may arrive in pieces.
        let rest = match self.random.chance(10) {
            true => frames.split_off(self.random.below(frames.len() as u64) as usize),
            false => Vec::new(),
        };
        for bytes in [frames, rest] {
            if !bytes.is_empty() {
                self.network.along(&mut self.random, from, to, Event::Deliver { from, to, bytes });
            }
        }
        if let (Node::Worker(id), false) = (from, announced.is_empty()) {
            self.with_worker(id, |worker| worker.announced(&announced));
        }
    }

    /// Panics unless the scheduler's tables say of every worker what it has.
    fn check_settled(&self) {
        let counts = self.scheduler.core.counts();
        assert_eq!((counts.waiting, counts.ready, counts.assigned, counts.receiving), (0, 0, 0, 0));
        for summary in self.scheduler.core.worker_summaries() {
            assert_eq!((summary.assigned, summary.backlog), (0, 0), "{}", summary.id);
            let stored: Vec<_> = self.workers[&summary.id].floor.lasting().collect();
            assert_eq!(summary.values, stored.len(), "values on {}: {stored:?}", summary.id);
            assert_eq!(summary.held_bytes, stored.iter().map(|(_, stored)| stored.nbytes).sum::<u64>());
        }
        for (id, client) in &self.clients {
            assert!(client.requests.is_empty(), "{id} waits for answers to {:?}", client.requests);
        }
        let recomputed = self.scheduler.core.totals().recomputed;
        let is_right = self.ledger.is_lossy || recomputed == self.ledger.remade;
        assert!(is_right, "values are made again, and none was lost");
    }

    fn check(&self) {
        self.scheduler.core.check();
    }

    /// What nobody has told clients of, with the scheduler's explanations.
    fn unsettled(&self) -> Vec<String> {
        let specs = &self.ledger.catalogue.specs;
        let explain = |entry: Entry| self.scheduler.core.explain(specs[entry].key);
        let of_client = |(id, client): (&ClientId, &Client)| {
            let lines = client
                .unsettled()
                .map(|(future, entry)| format!("{id} {future:?} (entry {entry}): {:?}", explain(entry)));
            lines.collect::<Vec<_>>()
        };
        self.clients.iter().flat_map(of_client).collect()
    }
}
