//! From what is wanted to the calls that make it: expressions become programs, one task per block.
//!
//! What is computed where it is used ends in the program of whoever uses it, down to the next blocks of their own, so
//! a chain of operations is one task per block and reads each input once. What is used twice in one program is one
//! step of it; what two tasks use is computed by both, as a pass over memory costs more than the arithmetic. Blocks of
//! their own are made once per plan ([`super::blocks`]), depth first: a task follows its inputs.
//!
//! Where several arrays or blocks meet in one ([`What::Join`]), what is not a view of a block or a few steps becomes a
//! block first, so that a plan does not grow with each join that stands on another; and of a block of which less than
//! half is taken, that part is cut out where the block is, so that no more than it travels. On one host, where whole blocks
//! are mapped, a cut would be a copy for nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

use smallvec::{SmallVec, smallvec};

use super::node::{Kind, Node};
use super::window::{Segment, Window};
use crate::client::argument::ArgumentList;
use crate::client::call::Input;
use crate::client::{Call, Client};
use crate::collections::array::task::BLOCK;
use crate::collections::array::task::ops::Scalar;
use crate::collections::array::task::program::{
    Affine, InputKind, Job, Load, Part, Program, Step, What, Work, dense_strides,
};
use crate::model::FutureId;
use crate::model::block::Shape;
use crate::model::numbers::{Dtype, for_dtype};
use crate::registry::TaskDefinition;

/// Smaller blocks travel whole: a task costs more.
const CUT_BYTES_MIN: usize = 64 << 10;

/// Deeper expressions are planned on a stack of their own, with so many bytes for each operation.
const DEPTH_ON_STACK_MAX: usize = 32;
const STACK_BYTES: usize = 32 << 10;

/// A plan under way: what was submitted so far.
pub(crate) struct Planner<'a> {
    pub(super) client: &'a Client,
    submit: &'a dyn Fn(Call<()>) -> Input,
    /// Whether blocks travel from worker to worker.
    blocks_travel: bool,
    /// Which of how many parts is planned, if they are to lie on all workers.
    pub(super) part: Option<(u32, u32)>,
    /// Blocks by node and number.
    pub(super) blocks: HashMap<(u64, usize), Input>,
    /// Other parts of arrays that were made.
    pub(super) windows: HashMap<(u64, Window), Input>,
    /// Parts of arrays that are parts of blocks.
    pub(super) views: HashMap<(u64, Window), View>,
    /// What comes before a block of running folds, by node and number.
    pub(super) carries: HashMap<(u64, usize), Input>,
    /// Folds of so many blocks along the axis of running folds, from this one on.
    pub(super) stretches: HashMap<(u64, usize, usize), Input>,
}

/// A part of a block.
#[derive(Clone)]
pub(super) struct View {
    pub(super) input: Input,
    /// The block's shape.
    of: Shape,
    at: Affine,
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

    /// A view of an input of this type.
    pub(super) fn load(&mut self, view: &View, dtype: Dtype) -> Load {
        let input = self.input(&view.input, InputKind::Block(dtype));
        Load { input, of: view.of.clone(), at: view.at.clone() }
    }

    /// Without the inputs after the first `count`.
    fn truncate(&mut self, count: usize) {
        self.inputs.truncate(count);
        self.kinds.truncate(count);
        self.numbers.retain(|_, number| (*number as usize) < count);
    }

    /// An input that counts by its position.
    pub(super) fn append(&mut self, input: Input, kind: InputKind) {
        self.inputs.push(input);
        self.kinds.push(kind);
    }
}

/// What `plan` makes of an expression.
pub(crate) fn planned<T: Send>(node: &Node, plan: impl FnOnce() -> T + Send) -> T {
    if node.depth <= DEPTH_ON_STACK_MAX {
        return plan();
    }
    thread::scope(|scope| {
        let planner = thread::Builder::new().name("plan".to_owned()).stack_size(node.depth * STACK_BYTES);
        match planner.spawn_scoped(scope, plan).expect("a thread starts").join() {
            Ok(made) => made,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

impl<'a> Planner<'a> {
    pub(crate) fn new(client: &'a Client, submit: &'a dyn Fn(Call<()>) -> Input) -> Self {
        Self {
            client,
            submit,
            blocks_travel: !client.is_on_one_host(),
            part: None,
            blocks: HashMap::new(),
            windows: HashMap::new(),
            views: HashMap::new(),
            carries: HashMap::new(),
            stretches: HashMap::new(),
        }
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
        (of, axis): (&[Arc<Node>], usize),
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
            self.put(draft, &mut parts, window.place(&segments), &of[segment.chunk], &part);
        }
        steps.add(node.dtype, What::Join(parts))
    }

    /// Adds a part of an array to those of a join, where it is to stand.
    fn put(&mut self, draft: &mut Draft, parts: &mut Vec<Part>, at: Shape, node: &Node, window: &Window) {
        let known = (node.id, window.clone());
        if !self.views.contains_key(&known) {
            let inputs = draft.inputs.len();
            let program = self.program(draft, node, window);
            match &program.steps[..] {
                [Step { what: What::Load(load), .. }] => {
                    let input = draft.inputs[load.input as usize].clone();
                    draft.truncate(inputs);
                    self.cut(node, window, View::of(input, load));
                }
                [Step { what: What::Join(inner), .. }] => {
                    return parts.extend(inner.iter().map(|part| Part {
                        at: part.at.iter().zip(&at).map(|(inner, outer)| inner + outer).collect(),
                        program: part.program.clone(),
                    }));
                }
                steps if steps.iter().all(|step| !matches!(step.what, What::Join(_))) => {
                    return parts.push(Part { at, program });
                }
                _ => {
                    draft.truncate(inputs);
                    let input = self.evaluated(node, window);
                    self.views.insert(known.clone(), View::whole(input, &window.shape));
                }
            }
        }
        let load = draft.load(&self.views[&known], node.dtype);
        parts.push(Part { at, program: Program::of_load(node.dtype, window.shape.clone(), load) });
    }

    /// A part of an array that is a part of a block, from now on as itself if it is small beside the block.
    fn cut(&mut self, node: &Node, window: &Window, view: View) -> View {
        let known = (node.id, window.clone());
        if let Some(view) = self.views.get(&known) {
            return view.clone();
        }
        let [taken, there] = [&window.shape, &view.of].map(|shape| shape.iter().product::<usize>());
        let is_small = there * node.dtype.size() < CUT_BYTES_MIN;
        let view = if is_small || taken * 2 >= there || !self.blocks_travel {
            view
        } else {
            let mut draft = Draft::default();
            let load = draft.load(&view, node.dtype);
            let program = Program::of_load(node.dtype, window.shape.clone(), load);
            let shape = window.shape.clone();
            View::whole(self.task(&BLOCK, draft, Job::Evaluate { program, shape }), &window.shape)
        };
        self.views.insert(known, view.clone());
        view
    }

    /// A part of an array that has blocks of its own: a view of one, or put together from several.
    fn load(&mut self, draft: &mut Draft, steps: &mut Steps, node: &Node, window: &Window) -> u32 {
        let cuts: Vec<Vec<Segment>> =
            (0..node.shape.len()).map(|axis| window.segments(axis, node.grid.axis(axis))).collect();
        let count = cuts.iter().map(Vec::len).product();
        let origin = Shape::from_elem(0, node.shape.len());
        let mut parts = Vec::with_capacity(count);
        for number in 0..count {
            let segments = pick(&cuts, number);
            let position: Shape = segments.iter().map(|segment| segment.chunk).collect();
            let part = window.part(&segments, &node.grid.start(&position));
            let input = self.block(node, node.grid.block_at(&position));
            let of = node.grid.extent(&position);
            let at = part.affine(&dense_strides(&of));
            let mut view = View { input, of, at };
            if count == 1 {
                return steps.add(node.dtype, What::Load(draft.load(&view, node.dtype)));
            }
            view = self.cut(node, &window.part(&segments, &origin), view);
            let load = draft.load(&view, node.dtype);
            let program = Program::of_load(node.dtype, part.shape.clone(), load);
            parts.push(Part { at: window.place(&segments), program });
        }
        steps.add(node.dtype, What::Join(parts))
    }
}

impl View {
    /// All of a block of this shape.
    pub(super) fn whole(input: Input, shape: &Shape) -> Self {
        Self { input, of: shape.clone(), at: Affine::dense(shape) }
    }

    pub(super) fn of(input: Input, load: &Load) -> Self {
        Self { input, of: load.of.clone(), at: load.at.clone() }
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
