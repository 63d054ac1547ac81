//! From what is wanted to the calls that make it: expressions become programs, one task per block.
//!
//! What is computed where it is used ends in the program of whoever uses it, down to the next blocks of their own, so
//! a chain of operations is one task per block and reads each input once. What is used twice in one program is one
//! step of it; what two tasks use is computed by both, as a pass over memory costs more than the arithmetic. Blocks of
//! their own are made once per plan ([`super::blocks`]), depth first: a task follows its inputs.

use std::collections::HashMap;

use smallvec::{SmallVec, smallvec};

use super::node::{Kind, Node};
use super::window::{Segment, Window};
use crate::client::argument::ArgumentList;
use crate::client::call::Input;
use crate::client::{Call, Client};
use crate::collections::array::task::ops::Scalar;
use crate::collections::array::task::program::{
    InputKind, Job, Load, Part, Program, Step, What, Work, dense_strides,
};
use crate::model::FutureId;
use crate::model::block::Shape;
use crate::model::numbers::{Dtype, for_dtype};
use crate::registry::TaskDefinition;

/// A plan under way: what was submitted so far.
pub(crate) struct Planner<'a> {
    pub(super) client: &'a Client,
    submit: &'a dyn Fn(Call<()>) -> Input,
    /// Which of how many parts is planned, if they are to lie on all workers.
    pub(super) part: Option<(u32, u32)>,
    /// Blocks by node and number.
    pub(super) blocks: HashMap<(u64, usize), Input>,
    /// Other parts of arrays that were made.
    pub(super) windows: HashMap<(u64, Window), Input>,
    /// What comes before a block of running folds, by node and number.
    pub(super) carries: HashMap<(u64, usize), Input>,
}

/// The inputs of a task under construction.
#[derive(Default)]
pub(super) struct Draft {
    inputs: Vec<Input>,
    kinds: Vec<InputKind>,
    numbers: HashMap<FutureId, u32>,
}

/// A program under construction.
struct Steps {
    steps: Vec<Step>,
    /// Parts of nodes that are steps already.
    known: HashMap<(u64, Window), u32>,
}

impl Draft {
    /// The number of an input, which is added if it is not there.
    pub(super) fn input(&mut self, input: &Input, kind: InputKind) -> u32 {
        *self.numbers.entry(input.future).or_insert_with(|| {
            self.inputs.push(input.clone());
            self.kinds.push(kind);
            self.inputs.len() as u32 - 1
        })
    }

    /// The input, if there is one only.
    pub(super) fn sole(&self) -> Option<Input> {
        match &self.inputs[..] {
            [input] => Some(input.clone()),
            _ => None,
        }
    }

    /// An input that counts by its position.
    pub(super) fn append(&mut self, input: Input, kind: InputKind) {
        self.inputs.push(input);
        self.kinds.push(kind);
    }
}

impl<'a> Planner<'a> {
    pub(crate) fn new(client: &'a Client, submit: &'a dyn Fn(Call<()>) -> Input) -> Self {
        let (blocks, windows, carries) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { client, submit, part: None, blocks, windows, carries }
    }

    pub(super) fn submit(&self, call: Call<()>) -> Input {
        (self.submit)(match self.part {
            Some((part, of)) => call.share_if_free(part, of),
            None => call,
        })
    }

    /// All blocks of a node, spread over the workers in contiguous runs: what takes no inputs is placed by its number,
    /// and everything else goes where its inputs are.
    pub(crate) fn spread(&mut self, node: &Node) -> Vec<Input> {
        let count = node.grid.blocks();
        let made = (0..count).map(|block| {
            self.part = u32::try_from(block).ok().zip(u32::try_from(count).ok());
            self.block(node, block)
        });
        made.collect()
    }

    /// Submits a task.
    pub(super) fn task(&self, task: &'static TaskDefinition, draft: Draft, job: Job) -> Input {
        let mut arguments = ArgumentList::new();
        arguments.put_value(&Work { inputs: draft.kinds, job });
        draft.inputs.into_iter().for_each(|input| arguments.put_input(input));
        self.submit(Call::new(task, arguments))
    }

    /// The program that computes a part of a node.
    pub(super) fn program(&mut self, draft: &mut Draft, node: &Node, window: &Window) -> Program {
        let mut steps = Steps { steps: Vec::new(), known: HashMap::new() };
        let last = self.step(draft, &mut steps, node, window);
        // The result is the last step, also if an earlier step of another operand serves for it.
        steps.steps.truncate(last as usize + 1);
        Program { shape: window.shape.clone(), steps: steps.steps }
    }

    fn step(&mut self, draft: &mut Draft, steps: &mut Steps, node: &Node, window: &Window) -> u32 {
        let known = (node.id, window.clone());
        if let Some(step) = steps.known.get(&known) {
            return *step;
        }
        let step = match &node.kind {
            _ if window.is_empty() => steps.add(node.dtype, What::Fill(zero(node.dtype))),
            Kind::Select { of, runs } => self.step(draft, steps, of, &window.through(runs)),
            Kind::Apply { op, of } => {
                let of =
                    of.iter().map(|of| self.step(draft, steps, of, &window.broadcast(&of.shape))).collect();
                steps.add(node.dtype, What::Apply { op: *op, of })
            }
            Kind::Fill(scalar) => steps.add(node.dtype, What::Fill(*scalar)),
            Kind::Index => steps.add(node.dtype, What::Index(window.affine(&dense_strides(&node.shape)))),
            Kind::Random { seed, distribution } => {
                let at = window.affine(&dense_strides(&node.shape));
                steps.add(node.dtype, What::Random { seed: *seed, distribution: *distribution, at })
            }
            Kind::Join { of, axis } => self.join(draft, steps, node, (of, *axis), window),
            _ => self.load(draft, steps, node, window),
        };
        steps.known.insert(known, step);
        step
    }

    /// A part of arrays that stand one after the other.
    fn join(
        &mut self,
        draft: &mut Draft,
        steps: &mut Steps,
        node: &Node,
        (of, axis): (&[std::sync::Arc<Node>], usize),
        window: &Window,
    ) -> u32 {
        let mut bounds = vec![0];
        for part in of {
            bounds.push(bounds[bounds.len() - 1] + part.shape[axis]);
        }
        let all = |at: usize| Segment { chunk: 0, from: 0, length: extent_along(window, at) };
        let mut parts = Vec::new();
        let cut = window.segments(axis, &bounds);
        for segment in &cut {
            let mut segments: SmallVec<[Segment; 4]> = (0..node.shape.len()).map(all).collect();
            segments[axis] = *segment;
            let mut origin = Shape::from_elem(0, node.shape.len());
            origin[axis] = bounds[segment.chunk];
            let part = window.part(&segments, &origin);
            if let [_] = cut[..] {
                return self.step(draft, steps, &of[segment.chunk], &part);
            }
            let program = self.program(draft, &of[segment.chunk], &part);
            parts.push(Part { at: window.place(&segments), program });
        }
        steps.add(node.dtype, What::Join(parts))
    }

    /// A part of an array that has blocks of its own: a view of one, or put together from several.
    fn load(&mut self, draft: &mut Draft, steps: &mut Steps, node: &Node, window: &Window) -> u32 {
        let cuts: Vec<Vec<Segment>> =
            (0..node.shape.len()).map(|axis| window.segments(axis, node.grid.axis(axis))).collect();
        let count = cuts.iter().map(Vec::len).product();
        let mut parts = Vec::with_capacity(count);
        for number in 0..count {
            let segments = pick(&cuts, number);
            let position: Shape = segments.iter().map(|segment| segment.chunk).collect();
            let part = window.part(&segments, &node.grid.start(&position));
            let input = self.block(node, node.grid.block_at(&position));
            let of = node.grid.extent(&position);
            let at = part.affine(&dense_strides(&of));
            let load = Load { input: draft.input(&input, InputKind::Block(node.dtype)), of, at };
            if count == 1 {
                return steps.add(node.dtype, What::Load(load));
            }
            let step = Step { dtype: node.dtype, what: What::Load(load) };
            let program = Program { shape: part.shape.clone(), steps: vec![step] };
            parts.push(Part { at: window.place(&segments), program });
        }
        steps.add(node.dtype, What::Join(parts))
    }
}

impl Steps {
    fn add(&mut self, dtype: Dtype, what: What) -> u32 {
        self.steps.push(Step { dtype, what });
        self.steps.len() as u32 - 1
    }
}

/// The extent of the window along one axis of its array.
fn extent_along(window: &Window, axis: usize) -> usize {
    window.runs[axis].along.map_or(1, |along| window.shape[along])
}

/// One segment per axis: combination `number` of all, row by row.
fn pick(cuts: &[Vec<Segment>], mut number: usize) -> SmallVec<[Segment; 4]> {
    let mut picked: SmallVec<[Segment; 4]> = smallvec![];
    for cut in cuts.iter().rev() {
        picked.push(cut[number % cut.len()]);
        number /= cut.len();
    }
    picked.reverse();
    picked
}

pub(crate) fn zero(dtype: Dtype) -> Scalar {
    for_dtype!(dtype, Number => Scalar::of(Number::default()))
}
