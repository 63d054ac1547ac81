//! What runs came to, added up.

/// What a run came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Summary {
    pub(crate) events: u64,
    pub(crate) runs: u64,
    pub(crate) recomputed: u64,
    pub(crate) stolen: u64,
    pub(crate) submitted: u64,
    pub(crate) abandoned: u64,
    pub(crate) refollowed: u64,
    pub(crate) acknowledged: u64,
    pub(crate) blamed: u64,
    pub(crate) bound: u64,
    pub(crate) acquired: u64,
    pub(crate) replicated: u64,
    pub(crate) moved: u64,
    pub(crate) without_worker: u64,
    pub(crate) spills: u64,
    pub(crate) pauses: u64,
    pub(crate) fills: u64,
    pub(crate) refusals: u64,
}

impl Summary {
    pub(crate) fn plus(self, other: &Self) -> Self {
        Self {
            events: self.events + other.events,
            runs: self.runs + other.runs,
            recomputed: self.recomputed + other.recomputed,
            stolen: self.stolen + other.stolen,
            submitted: self.submitted + other.submitted,
            abandoned: self.abandoned + other.abandoned,
            refollowed: self.refollowed + other.refollowed,
            acknowledged: self.acknowledged + other.acknowledged,
            blamed: self.blamed + other.blamed,
            bound: self.bound + other.bound,
            acquired: self.acquired + other.acquired,
            replicated: self.replicated + other.replicated,
            moved: self.moved + other.moved,
            without_worker: self.without_worker + other.without_worker,
            spills: self.spills + other.spills,
            pauses: self.pauses + other.pauses,
            fills: self.fills + other.fills,
            refusals: self.refusals + other.refusals,
        }
    }
}
