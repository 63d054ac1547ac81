//! What there is to compute: a catalogue of calls and scattered values, with what each must come to.
//!
//! Every client takes its calls from the same catalogue, so equal keys meet. An entry's inputs stand before it.

use std::sync::Arc;

use dcluster::model::{FunctionId, Key, Others, Placement, WorkerId, WorkerName};

use super::random::{Random, mix};

/// Functions that every worker has.
pub(crate) const FUNCTIONS: u64 = 3;
/// A function that no worker has.
const UNKNOWN_FUNCTION: FunctionId = FunctionId(99);

/// Workers have ranks from 1 to this, again and again.
pub(crate) const RANKS: u64 = 5;

/// An index into the catalogue.
pub(crate) type Entry = usize;

/// All that can be asked for.
#[derive(Debug)]
pub(crate) struct Catalogue {
    pub(crate) specs: Vec<Spec>,
    /// Entries that take this one as input.
    pub(crate) children: Vec<Vec<Entry>>,
}

/// One call or scattered value.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) key: Key,
    pub(crate) function: FunctionId,
    pub(crate) inputs: Vec<Entry>,
    pub(crate) behaviour: Behaviour,
    /// What its value must be.
    pub(crate) value: u64,
    pub(crate) nbytes: u64,
    pub(crate) duration_us: u64,
    pub(crate) priority: i32,
    pub(crate) retries: u16,
    /// Where it may or should run.
    pub(crate) placement: Option<Arc<Placement>>,
    /// Bytes of arguments beyond the entry's number.
    pub(crate) padding: usize,
}

/// What happens when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// It gives its value.
    Works,
    /// So many runs end in an error, then it works.
    Fails(u32),
    /// So many runs kill their worker, then it works.
    Kills(u32),
    /// No worker has its function.
    Unknown,
    /// It does not run: a client scatters it.
    Scattered,
}

/// What a catalogue consists of.
#[derive(Debug)]
pub(crate) struct Mix {
    /// Entries that fail, kill or cannot run.
    pub(crate) trouble_percent: u64,
    /// Of the entries without inputs, those that are scattered.
    pub(crate) scattered_percent: u64,
    /// Entries whose value may be too large to travel with a report.
    pub(crate) large_percent: u64,
    /// Binary logarithm of the size of the largest value in bytes.
    pub(crate) large_log2_max: u64,
    /// Calls that name workers.
    pub(crate) bound_percent: u64,
    /// How many workers there may be.
    pub(crate) workers: u64,
    /// Binary logarithm of the shortest run time in microseconds.
    pub(crate) duration_log2_min: u64,
    /// What parts of the catalogue look like.
    pub(crate) shapes: &'static [Shape],
}

/// How the entries of a part of the catalogue depend on each other.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    Chain,
    Tree,
    FanOut,
    Diamonds,
    Random,
    Independent,
    /// A chain, of which each link takes an entry of its own besides.
    Ladder,
}

/// Those of most catalogues.
pub(crate) const SHAPES: &[Shape] =
    &[Shape::Chain, Shape::Tree, Shape::FanOut, Shape::Diamonds, Shape::Random, Shape::Independent];

impl Catalogue {
    /// A catalogue of `len` entries.
    pub(crate) fn new(random: &mut Random, len: usize, mix: &Mix) -> Self {
        let mut catalogue = Self { specs: Vec::new(), children: Vec::new() };
        while catalogue.specs.len() < len {
            let first = catalogue.specs.len();
            let part = random.between(1, (len - first) as u64) as usize;
            let shape = random.pick(mix.shapes);
            for place in 0..part {
                let inputs = catalogue.inputs(random, shape, first, place);
                catalogue.push(random, inputs, mix);
            }
        }
        catalogue
    }

    /// The entry whose arguments these are.
    pub(crate) fn entry(arguments: &[u8]) -> Entry {
        let number = arguments.first_chunk::<4>().expect("arguments begin with the entry's number");
        u32::from_le_bytes(*number) as Entry
    }

    /// The entry that has this key.
    pub(crate) fn of_key(key: Key) -> Entry {
        key.0 as u32 as Entry
    }

    /// What a call of the entry takes.
    pub(crate) fn arguments(&self, entry: Entry) -> Vec<u8> {
        let mut bytes = (entry as u32).to_le_bytes().to_vec();
        bytes.resize(4 + self.specs[entry].padding, 0xab);
        bytes
    }

    /// The entry whose key people see as `shown`.
    pub(crate) fn shown(&self, shown: &str) -> Option<Entry> {
        let digits = shown.rsplit('-').next()?;
        self.specs.iter().position(|spec| spec.key.shown("").rsplit('-').next() == Some(digits))
    }

    /// Whether `ancestor` is `entry` or among what it is made from.
    pub(crate) fn descends(&self, entry: Entry, ancestor: Entry) -> bool {
        self.descendants(ancestor)[entry]
    }

    /// For every entry, whether it is `entry` or made from it.
    pub(crate) fn descendants(&self, entry: Entry) -> Vec<bool> {
        let mut found = vec![false; self.specs.len()];
        let mut work = vec![entry];
        while let Some(entry) = work.pop() {
            if !std::mem::replace(&mut found[entry], true) {
                work.extend(&self.children[entry]);
            }
        }
        found
    }

    fn inputs(&self, random: &mut Random, shape: Shape, first: Entry, place: usize) -> Vec<Entry> {
        let before = |back: usize| first + place - back;
        match shape {
            _ if place == 0 && first > 0 && random.chance(50) => vec![random.below(first as u64) as Entry],
            _ if place == 0 => Vec::new(),
            Shape::Chain => vec![before(1)],
            Shape::Tree => vec![first + (place - 1) / 2],
            Shape::FanOut => vec![first],
            Shape::Diamonds if place.is_multiple_of(3) => vec![before(1), before(2)],
            Shape::Diamonds => vec![first + place / 3 * 3],
            Shape::Random => {
                let all = (first + place) as u64;
                let near = all.saturating_sub(random.between(1, 20));
                let count = random.below(5);
                // The same input may come up twice.
                (0..count).map(|_| (near + random.below(all - near)) as Entry).collect()
            }
            Shape::Ladder if place.is_multiple_of(2) => vec![before(1), before(2)],
            Shape::Ladder | Shape::Independent => Vec::new(),
        }
    }

    fn push(&mut self, random: &mut Random, inputs: Vec<Entry>, percent: &Mix) {
        let entry = self.specs.len();
        let behaviour = match random.below(100) {
            draw if draw < percent.trouble_percent => match random.below(10) {
                0..5 => Behaviour::Fails(random.between(1, 4) as u32),
                5..8 => Behaviour::Kills(random.between(1, 4) as u32),
                8 => Behaviour::Fails(u32::MAX),
                _ => Behaviour::Unknown,
            },
            _ if inputs.is_empty() && random.chance(percent.scattered_percent) => Behaviour::Scattered,
            _ => Behaviour::Works,
        };
        let spread = mix(entry as u64 + 1);
        let value = inputs.iter().fold(spread, |value, input| result(value, self.specs[*input].value));
        let function = match behaviour {
            Behaviour::Unknown => UNKNOWN_FUNCTION,
            _ => FunctionId(1 + random.below(FUNCTIONS)),
        };
        // The front digits are all that an error shows of a key: they differ between entries.
        let front = (entry as u32).wrapping_mul(0x9e37_79b1);
        for input in &inputs {
            self.children[*input].push(entry);
        }
        self.children.push(Vec::new());
        self.specs.push(Spec {
            key: Key(u128::from(front) << 96 | u128::from(spread >> 32) << 32 | entry as u128),
            function,
            inputs,
            behaviour,
            value,
            nbytes: if !random.chance(percent.large_percent) {
                8
            } else {
                1 << random.between(12, percent.large_log2_max)
            },
            duration_us: 1 << random.between(percent.duration_log2_min, 14),
            priority: if random.chance(80) { 0 } else { random.between(0, 4) as i32 - 2 },
            retries: random.pick(&[0, 0, 1, 2]),
            placement: random
                .chance(percent.bound_percent)
                .then(|| placement(random, entry, percent.workers)),
            padding: random.pick(&[0, 4, 100]),
        });
    }
}

impl Spec {
    /// Whether a worker sends the value along instead of keeping it.
    pub(crate) fn is_inline(&self) -> bool {
        self.nbytes <= 4096 && self.behaviour != Behaviour::Scattered
    }

    /// What a run on these inputs gives.
    pub(crate) fn run(&self, entry: Entry, inputs: &[u64]) -> u64 {
        inputs.iter().fold(mix(entry as u64 + 1), |value, input| result(value, *input))
    }
}

/// Names of workers that there may be, or a share of them all.
fn placement(random: &mut Random, entry: Entry, workers: u64) -> Arc<Placement> {
    if random.chance(30) {
        return Arc::new(Placement::Share {
            index: entry as u32,
            of: entry as u32 + random.between(0, 20) as u32,
        });
    }
    let name = |random: &mut Random| match random.below(40) {
        0 => WorkerName::Rank(RANKS as u32 + 1),
        1..12 => WorkerName::Id(WorkerId(random.below(workers) as u32)),
        12..20 => WorkerName::Host(format!("host-{}", random.below(workers.div_ceil(4)))),
        _ => WorkerName::Rank(random.between(1, workers.min(RANKS)) as u32),
    };
    let len = if random.chance(3) { 0 } else { random.between(1, 3) };
    let workers = (0..len).map(|_| name(random)).collect();
    Arc::new(Placement::On { workers, others: random.pick(&[Others::Refused, Others::Allowed]) })
}

fn result(value: u64, input: u64) -> u64 {
    mix(value ^ input.rotate_left(17))
}
