//! Blocks of their own: the tasks behind each kind of node, made once per plan.
//!
//! Reductions are trees: a task per block, then tasks that put up to [`FAN_IN`] parts together, submitted depth first,
//! so that a worker goes from the blocks it has loaded to their sum before it loads others.

use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use super::node::{GivenBlock, Kind, Node, Shapes};
use super::plan::{Draft, Planner, View};
use super::window::{Run, Window};
use crate::client::Call;
use crate::client::argument::ArgumentList;
use crate::client::call::Input;
use crate::collections::array::task::ops::{Binary, Op};
use crate::collections::array::task::program::{
    Affine, Extreme, InputKind, Job, Load, Program, Step, Term, What, Work,
};
use crate::collections::array::task::{ACCUMULATE, ASSEMBLE, BLOCK, COMBINE, MULTIPLY, REDUCE};
use crate::model::block::Shape;
use crate::model::numbers::Dtype;

/// How many parts of a reduction one task puts together.
const FAN_IN: usize = 8;

impl Planner<'_> {
    /// A block of a node.
    pub(crate) fn block(&mut self, node: &Node, block: usize) -> Input {
        if let Some(input) = self.blocks.get(&(node.id, block)) {
            return input.clone();
        }
        let input = match &node.kind {
            Kind::Held { blocks, .. } => blocks[block].clone(),
            Kind::Given(given) => self.given(node, &given[block], block),
            Kind::Scattered(blocks) => blocks[block](self.client, self.part),
            Kind::Called(call) => self.submit(call(&node.place(block))),
            Kind::Mapped { of, call } => {
                let position = node.grid.position(block);
                let (start, extent) = (node.grid.start(&position), node.grid.extent(&position));
                let inputs: Vec<Input> = of
                    .iter()
                    .map(|operand| {
                        let extent: Shape = extent.iter().zip(&operand.reach).map(|(a, b)| a + b).collect();
                        self.evaluated(&operand.of, &Window::of_box(&start, &extent))
                    })
                    .collect();
                self.submit(call(&inputs))
            }
            Kind::Folded { of, op, axes } => self.folded(of, *op, axes, &node.grid.position(block)),
            Kind::Moments { of, axes } => self.moments(of, axes, &node.grid.position(block)[1..]),
            Kind::Best { of, axes, which, strides } => {
                self.best(of, axes, (*which, strides), &node.grid.position(block))
            }
            Kind::Histogram { of, low, high, bins } => self.histogram(of, (*low, *high), *bins),
            Kind::Running { of, op, axis } => self.running(node, of, (*op, *axis), block),
            Kind::Reshaped(of) => {
                let shape = node.grid.extent(&node.grid.position(block));
                let window = block_window(of, block);
                let mut draft = Draft::default();
                let program = self.program(&mut draft, of, &window);
                self.task(&BLOCK, draft, Job::Evaluate { program, shape })
            }
            Kind::Product { left, right } => self.product(node, left, right, block),
            _ => self.evaluated(node, &block_window(node, block)),
        };
        self.blocks.insert((node.id, block), input.clone());
        input
    }

    /// A whole array as one block; its own blocks are made by tasks of their own.
    pub(crate) fn assembled(&mut self, node: &Node) -> Input {
        let inputs: Vec<Input> = (0..node.grid.blocks()).map(|block| self.block(node, block)).collect();
        if let ([input], Shapes::Made) = (&inputs[..], node.shapes) {
            return input.clone();
        }
        // (A task that only looks whether its input has the right shape hands it on.)
        let held =
            Node::new(node.dtype, node.grid.clone(), Kind::Held { blocks: inputs, shapes: Shapes::Made });
        let mut draft = Draft::default();
        let program = self.program(&mut draft, &held, &Window::of_box(&zeros(&node.shape), &node.shape));
        self.task(&ASSEMBLE, draft, Job::Evaluate { program, shape: node.shape.clone() })
    }

    /// A part of an array as a block.
    pub(super) fn evaluated(&mut self, node: &Node, window: &Window) -> Input {
        let known = (node.id, window.clone());
        if let Some(input) = self.windows.get(&known) {
            return input.clone();
        }
        let mut draft = Draft::default();
        let program = self.program(&mut draft, node, window);
        let shape = window.shape.clone();
        let input = match &program.steps[..] {
            [Step { what: What::Load(load), .. }] if load.of == shape && load.at == Affine::dense(&shape) => {
                draft.sole()
            }
            _ => None,
        };
        let input = input.unwrap_or_else(|| self.task(&BLOCK, draft, Job::Evaluate { program, shape }));
        self.windows.insert(known, input.clone());
        input
    }

    /// A part of an array as a view of a block: of the one that there is, or of one that is made for it.
    fn viewed(&mut self, node: &Node, window: &Window) -> View {
        let known = (node.id, window.clone());
        if let Some(view) = self.views.get(&known) {
            return view.clone();
        }
        let mut draft = Draft::default();
        let program = self.program(&mut draft, node, window);
        let view = match (&program.steps[..], draft.sole()) {
            ([Step { what: What::Load(load), .. }], Some(input)) => View::of(input, load),
            _ => {
                let shape = window.shape.clone();
                View::whole(self.task(&BLOCK, draft, Job::Evaluate { program, shape }), &window.shape)
            }
        };
        self.views.insert(known, view.clone());
        view
    }

    fn given(&mut self, node: &Node, block: &GivenBlock, number: usize) -> Input {
        let shape = node.grid.extent(&node.grid.position(number));
        let load = Load { input: 0, of: shape.clone(), at: Affine::dense(&shape) };
        let program = Program::of_load(node.dtype, shape.clone(), load);
        let mut arguments = ArgumentList::new();
        let inputs = vec![InputKind::Block(node.dtype)];
        arguments.put_value(&Work { inputs, job: Job::Evaluate { program, shape } });
        block(&mut arguments);
        self.submit(Call::new(&BLOCK, arguments))
    }

    fn folded(&mut self, of: &Node, op: Binary, axes: &[bool], position: &[usize]) -> Input {
        let leaves = below(of, axes, position);
        let mut shape = of.grid.extent(&of.grid.position(leaves[0]));
        (0..axes.len()).filter(|axis| axes[*axis]).for_each(|axis| shape[axis] = 1);
        let mut leaf = |planner: &mut Self, at: usize| planner.fold_of(of, op, axes, leaves[at]);
        let combine = |planner: &mut Self, parts: Vec<Input>| planner.combined(of.dtype, op, &shape, parts);
        self.tree(0..leaves.len(), &mut leaf, &combine)
    }

    /// One block folded.
    fn fold_of(&mut self, of: &Node, op: Binary, axes: &[bool], block: usize) -> Input {
        let mut draft = Draft::default();
        let program = self.program(&mut draft, of, &block_window(of, block));
        self.task(&REDUCE, draft, Job::Fold { program, op, axes: axes.into() })
    }

    /// Blocks of one shape put together place by place, in pairs.
    fn combined(&mut self, dtype: Dtype, op: Binary, shape: &Shape, parts: Vec<Input>) -> Input {
        let mut draft = Draft::default();
        let at = Affine::dense(shape);
        let step = |what| Step { dtype, what };
        let mut steps: Vec<Step> = Vec::new();
        let mut level: Vec<u32> = Vec::new();
        for part in parts {
            draft.append(part, InputKind::Block(dtype));
            let input = steps.len() as u32;
            steps.push(step(What::Load(Load { input, of: shape.clone(), at: at.clone() })));
            level.push(input);
        }
        while level.len() > 1 {
            let mut next = Vec::new();
            for pair in level.chunks(2) {
                if let [x, y] = *pair {
                    steps.push(step(What::Apply { op: Op::Binary(op), of: smallvec![x, y] }));
                    next.push(steps.len() as u32 - 1);
                } else {
                    next.push(pair[0]);
                }
            }
            level = next;
        }
        let program = Program { shape: shape.clone(), steps };
        self.task(&COMBINE, draft, Job::Evaluate { program, shape: shape.clone() })
    }

    fn moments(&mut self, of: &Node, axes: &[bool], position: &[usize]) -> Input {
        let leaves = below(of, axes, position);
        let mut leaf = |planner: &mut Self, at: usize| {
            let mut draft = Draft::default();
            let (window, shape) = row_window(of, axes, leaves[at]);
            let program = planner.program(&mut draft, of, &window);
            let reduced = axes.iter().filter(|reduced| **reduced).count();
            planner.task(&REDUCE, draft, Job::Moments { program, reduced, shape })
        };
        let combine = |planner: &mut Self, parts: Vec<Input>| {
            let mut draft = Draft::default();
            parts.into_iter().for_each(|part| draft.append(part, InputKind::Block(Dtype::F64)));
            planner.task(&COMBINE, draft, Job::MergeMoments)
        };
        self.tree(0..leaves.len(), &mut leaf, &combine)
    }

    fn best(
        &mut self,
        of: &Node,
        axes: &[bool],
        (which, strides): (Extreme, &[i64]),
        position: &[usize],
    ) -> Input {
        let leaves = below(of, axes, position);
        let mut leaf = |planner: &mut Self, at: usize| {
            let mut draft = Draft::default();
            let (window, shape) = row_window(of, axes, leaves[at]);
            let program = planner.program(&mut draft, of, &window);
            let start = of.grid.start(&of.grid.position(leaves[at]));
            let reduced = (0..axes.len()).filter(|axis| axes[*axis]);
            let place = Affine {
                offset: reduced.clone().map(|axis| start[axis] as i64 * strides[axis]).sum(),
                strides: reduced.map(|axis| strides[axis]).collect(),
            };
            planner.task(&REDUCE, draft, Job::Best { program, which, place, shape })
        };
        let kind = InputKind::Best(of.dtype);
        let combine = |planner: &mut Self, parts: Vec<Input>| {
            let mut draft = Draft::default();
            parts.into_iter().for_each(|part| draft.append(part, kind));
            planner.task(&COMBINE, draft, Job::MergeBest { which, last: false })
        };
        let whole = self.tree(0..leaves.len(), &mut leaf, &combine);
        let mut draft = Draft::default();
        draft.append(whole, kind);
        self.task(&COMBINE, draft, Job::MergeBest { which, last: true })
    }

    fn histogram(&mut self, of: &Node, (low, high): (f64, f64), bins: usize) -> Input {
        let mut leaf = |planner: &mut Self, block: usize| {
            let mut draft = Draft::default();
            let program = planner.program(&mut draft, of, &block_window(of, block));
            planner.task(&REDUCE, draft, Job::Histogram { program, low, high, bins })
        };
        let shape = Shape::from_slice(&[bins]);
        let combine =
            |planner: &mut Self, parts: Vec<Input>| planner.combined(Dtype::I64, Binary::Add, &shape, parts);
        self.tree(0..of.grid.blocks(), &mut leaf, &combine)
    }

    fn running(&mut self, node: &Node, of: &Node, (op, axis): (Binary, usize), block: usize) -> Input {
        let carry = self.carry((node, of), (op, axis), block);
        let mut draft = Draft::default();
        let program = self.program(&mut draft, of, &block_window(of, block));
        let carried = carry.is_some();
        if let Some(carry) = carry {
            draft.append(carry, InputKind::Block(of.dtype));
        }
        self.task(&ACCUMULATE, draft, Job::Accumulate { program, op, axis, carried })
    }

    /// The fold of all blocks before one, along an axis: of those before the last stretches, and of these. A stretch is
    /// one block, or [`FAN_IN`] of them, or as many of those, and begins where such a number of blocks ends.
    fn carry(
        &mut self,
        (node, of): (&Node, &Node),
        (op, axis): (Binary, usize),
        block: usize,
    ) -> Option<Input> {
        let mut position = of.grid.position(block);
        let end = position[axis];
        if end == 0 {
            return None;
        }
        if let Some(carry) = self.carries.get(&(node.id, block)) {
            return Some(carry.clone());
        }
        let mut length = 1;
        while end.is_multiple_of(length * FAN_IN) {
            length *= FAN_IN;
        }
        let start = end / (length * FAN_IN) * (length * FAN_IN);
        position[axis] = start;
        let mut parts = Vec::with_capacity(FAN_IN);
        parts.extend(self.carry((node, of), (op, axis), of.grid.block_at(&position)));
        for from in (start..end).step_by(length) {
            position[axis] = from;
            parts.push(self.stretch((node, of), (op, axis), &position, length));
        }
        let carry = self.put_together(of, (op, axis), &position, parts);
        self.carries.insert((node.id, block), carry.clone());
        Some(carry)
    }

    /// The fold of `length` blocks along an axis, from one on.
    fn stretch(
        &mut self,
        (node, of): (&Node, &Node),
        (op, axis): (Binary, usize),
        first: &[usize],
        length: usize,
    ) -> Input {
        let known = (node.id, of.grid.block_at(first), length);
        if let Some(fold) = self.stretches.get(&known) {
            return fold.clone();
        }
        let fold = if length == 1 {
            let axes: SmallVec<[bool; 4]> = (0..first.len()).map(|at| at == axis).collect();
            self.fold_of(of, op, &axes, of.grid.block_at(first))
        } else {
            let mut position = Shape::from_slice(first);
            let mut parts = Vec::with_capacity(FAN_IN);
            for _ in 0..FAN_IN {
                parts.push(self.stretch((node, of), (op, axis), &position, length / FAN_IN));
                position[axis] += length / FAN_IN;
            }
            self.put_together(of, (op, axis), first, parts)
        };
        self.stretches.insert(known, fold.clone());
        fold
    }

    /// Folds of blocks that stand along an axis at `position`, as one.
    fn put_together(
        &mut self,
        of: &Node,
        (op, axis): (Binary, usize),
        position: &[usize],
        parts: Vec<Input>,
    ) -> Input {
        if let [part] = &parts[..] {
            return part.clone();
        }
        let mut shape = of.grid.extent(position);
        shape[axis] = 1;
        self.combined(of.dtype, op, &shape, parts)
    }

    /// A block of a product: sums of a few terms each, which are added up as those of any reduction are.
    fn product(&mut self, node: &Node, left: &Node, right: &Node, block: usize) -> Input {
        let position = node.grid.position(block);
        let (start, extent) = (node.grid.start(&position), node.grid.extent(&position));
        let (rows, columns) = (extent[0], extent[1]);
        let inner: Vec<&[usize]> = left
            .grid
            .axis(1)
            .windows(2)
            .filter(|bounds| bounds[0] < bounds[1] && rows * columns > 0)
            .collect();
        let mut leaf = |planner: &mut Self, at: usize| {
            let mut draft = Draft::default();
            let mut terms = Vec::new();
            for bounds in inner.chunks(FAN_IN).nth(at).unwrap_or_default() {
                let (from, length) = (bounds[0], bounds[1] - bounds[0]);
                let left = planner.viewed(left, &Window::of_box(&[start[0], from], &[rows, length]));
                let right = planner.viewed(right, &Window::of_box(&[from, start[1]], &[length, columns]));
                let (left, right) = (draft.load(&left, node.dtype), draft.load(&right, node.dtype));
                terms.push(Term { inner: length, left, right });
            }
            planner.task(&MULTIPLY, draft, Job::Multiply { dtype: node.dtype, rows, columns, terms })
        };
        let combine =
            |planner: &mut Self, parts: Vec<Input>| planner.combined(node.dtype, Binary::Add, &extent, parts);
        self.tree(0..inner.len().div_ceil(FAN_IN).max(1), &mut leaf, &combine)
    }

    /// A tree over leaves, depth first.
    fn tree(
        &mut self,
        leaves: Range<usize>,
        leaf: &mut dyn FnMut(&mut Self, usize) -> Input,
        combine: &dyn Fn(&mut Self, Vec<Input>) -> Input,
    ) -> Input {
        let count = leaves.len();
        if count == 1 {
            return leaf(self, leaves.start);
        }
        let mut part = 1;
        while part * FAN_IN < count {
            part *= FAN_IN;
        }
        let parts = leaves.clone().step_by(part).map(|from| from..(from + part).min(leaves.end));
        let parts: Vec<Input> = parts.map(|part| self.tree(part, leaf, combine)).collect();
        combine(self, parts)
    }
}

/// The window on one block.
fn block_window(node: &Node, block: usize) -> Window {
    let position = node.grid.position(block);
    Window::of_box(&node.grid.start(&position), &node.grid.extent(&position))
}

/// The window on one block with the reduced axes last, and the shape of what is left of it.
fn row_window(of: &Node, axes: &[bool], block: usize) -> (Window, Shape) {
    let position = of.grid.position(block);
    let (start, extent) = (of.grid.start(&position), of.grid.extent(&position));
    let kept = (0..axes.len()).filter(|axis| !axes[*axis]);
    let order: SmallVec<[usize; 4]> = kept.chain((0..axes.len()).filter(|axis| axes[*axis])).collect();
    let mut runs = SmallVec::from_elem(Run::fixed(0), axes.len());
    for (along, axis) in order.iter().enumerate() {
        runs[*axis] = Run { start: start[*axis] as i64, step: 1, along: Some(along) };
    }
    let shape = order.iter().map(|axis| extent[*axis]).collect();
    let left = (0..axes.len()).map(|axis| if axes[axis] { 1 } else { extent[axis] }).collect();
    (Window { shape, runs }, left)
}

/// The blocks of `of` that a reduction's block at `position` is made of.
fn below(of: &Node, axes: &[bool], position: &[usize]) -> Vec<usize> {
    let counts = of.grid.counts();
    let free: Shape = (0..axes.len()).map(|axis| if axes[axis] { counts[axis] } else { 1 }).collect();
    let number = free.iter().product();
    let mut blocks = Vec::with_capacity(number);
    for mut at in 0..number {
        let mut block = Shape::from_slice(position);
        for axis in (0..axes.len()).rev() {
            if axes[axis] {
                block[axis] = at % free[axis];
                at /= free[axis];
            }
        }
        blocks.push(of.grid.block_at(&block));
    }
    blocks
}

fn zeros(shape: &[usize]) -> Shape {
    Shape::from_elem(0, shape.len())
}
