//! The backward pass. The probabilities p are computed anew from the scores and the logarithms of their sums; with
//! ds = p (dp - sum(dout out)) / sqrt(d): dv = p^T dout, dq = ds k, dk = ds^T q.
//!
//! The gradients of keys and values are sums over all queries, those of queries over all keys. A task that has all keys
//! of a head makes all three. Where heads are too few to occupy the threads, keys are shared out too; the queries' gradients
//! then take a second round, in which every task has all keys again. Each sum is made by one task, in the same order
//! either way.

use super::meeting::{Head, Keys, Meeting};
use super::Heads;
use crate::error::{check_len, Result};
use crate::pool::scratch::{lend, sized};
use crate::pool::split::Split;
use crate::pool::{for_each_image, run, Pool};
use crate::products::rows::ToRows;
use crate::products::{multiply, Correlations, Floats, Operands, RUN};
use crate::simd::element::Element;
use crate::simd::{dispatch, Line, LANES};
use std::f32::consts::LN_2;
use std::ops::Range;

/// Writes dqkv (N, positions, 3 C) from dout (N, positions, C), what went into [`super::forward`] and what came out.
///
/// # Errors
/// When a length does not fit, memory runs out or the pool fails.
pub fn backward<T: Element>(
    pool: &dyn Pool,
    heads: Heads,
    qkv: &[T],
    (out, logsumexp): (&[T], &[f32]),
    dout: &[T],
    dqkv: &mut [T],
) -> Result {
    heads.check(qkv.len(), out.len(), logsumexp.len())?;
    check_len("dout", dout.len(), out.len())?;
    check_len("dqkv", dqkv.len(), qkv.len())?;
    let shares = Split::new(dqkv, heads.batch, |image| (image + 1) * heads.positions * 3 * heads.channels());
    for_each_image(pool, heads.batch, |image, pool| {
        let head = |head| Head::new(&heads, (image, head), qkv, (out, logsumexp), dout);
        let dqkv = shares.take(image);
        // One head after the other stays in the caches; all at once keep the threads busy.
        let at_once = if pool.threads() == 1 { 1 } else { heads.heads };
        (0..heads.heads)
            .step_by(at_once)
            .try_for_each(|first| some_heads(pool, &heads, first..first + at_once, &head, dqkv))
    })
}

/// The gradients of some heads of one image.
fn some_heads<'a, T: Element>(
    pool: &dyn Pool,
    heads: &Heads,
    which: Range<usize>,
    head: &(impl Fn(usize) -> Head<'a, T> + Sync),
    dqkv: &mut [T],
) -> Result {
    let slices = slices(which.len(), pool.threads(), heads.panels());
    let sizes = Sizes { queries: if slices == 1 { heads.positions * heads.blocks() } else { 0 }, ..Sizes::of(heads) };
    lend(|[dq, dk, dv]| {
        let dq = sized(dq, which.len() * sizes.queries)?;
        let [dk, dv] = [sized(dk, which.len() * sizes.keys)?, sized(dv, which.len() * sizes.keys)?];
        let panels = |slice: usize| slice * heads.panels() / slices..(slice + 1) * heads.panels() / slices;
        let end = |i: usize| i / slices * sizes.keys + panels(i % slices).end * sizes.panel;
        let tasks = which.len() * slices;
        let d_queries = Split::new(dq, tasks, |i| (i + 1) * sizes.queries);
        let [d_keys, d_values] = [Split::new(dk, tasks, end), Split::new(dv, tasks, end)];
        run(pool, tasks, |i| {
            let into = Sums { queries: d_queries.take(i), keys: d_keys.take(i), values: d_values.take(i) };
            meet_all_queries(&head(which.start + i / slices), panels(i % slices), into)
        })?;
        drop((d_queries, d_keys, d_values));

        let tasks = pool.threads().min(heads.positions);
        let positions = |i: usize| i * heads.positions / tasks..(i + 1) * heads.positions / tasks;
        let rows = Split::new(dqkv, tasks, |i| positions(i).end * 3 * heads.channels());
        run(pool, tasks, |i| {
            let to = rows.take(i);
            for (k, index) in which.clone().enumerate() {
                let sums = Sums {
                    queries: &dq[k * sizes.queries..(k + 1) * sizes.queries],
                    keys: &dk[k * sizes.keys..(k + 1) * sizes.keys],
                    values: &dv[k * sizes.keys..(k + 1) * sizes.keys],
                };
                write_rows(&head(index), index, positions(i), sums, to)?;
            }
            Ok(())
        })
    })
}

/// In how many slices a head's keys are shared out: as few as occupy the threads, and one where a second round, which
/// makes two of the five products again, would take longer than what stands idle without it.
fn slices(heads: usize, threads: usize, panels: usize) -> usize {
    let rounds = heads.div_ceil(threads);
    if 7 * heads >= 5 * threads * rounds {
        return 1;
    }
    let shared_evenly = (1..=threads).find(|slices| (heads * slices).is_multiple_of(threads));
    shared_evenly.unwrap_or(1).min(panels)
}

/// Lines of one head's gradients.
struct Sizes {
    /// None where they are made in the second round.
    queries: usize,
    keys: usize,
    /// Of 16 keys.
    panel: usize,
}

impl Sizes {
    fn of(heads: &Heads) -> Self {
        let panel = heads.blocks() * LANES;
        Sizes { queries: 0, keys: heads.panels() * panel, panel }
    }
}

/// A head's gradients, or parts of them: of queries `[block of queries][block of channels][query]`, of keys and values
/// `[panel of keys][block of channels][key]`.
struct Sums<L> {
    queries: L,
    keys: L,
    values: L,
}

/// The gradients of some keys and their values; of the queries too if there is room for them, which takes all keys.
fn meet_all_queries<T: Element>(head: &Head<T>, panels: Range<usize>, into: Sums<&mut [Line]>) -> Result {
    let (positions, blocks) = (head.heads.positions, head.heads.blocks());
    lend(|[keys, values, by_row, a, b, c, d]| {
        let (keys, mut buffers) = (Keys::new(head, panels, [keys, values, by_row])?, [a, b, c, d]);
        for start in (0..positions).step_by(head.heads.block()) {
            let rows = start..positions.min(start + head.heads.block());
            let Meeting { queries, d_out, p, slopes } = head.meet(&keys, rows.clone(), &mut buffers)?;
            add(rows.clone(), blocks, p, d_out, into.values);
            add(rows.clone(), blocks, slopes, queries, into.keys);
            if !into.queries.is_empty() {
                let m = &mut into.queries[start * blocks..rows.end * blocks];
                multiply(Operands {
                    arithmetic: Floats,
                    run: RUN,
                    tiles: rows.len(),
                    blocks: keys.panels,
                    v: slopes,
                    u: keys.by_row,
                    m,
                    first: true,
                });
            }
        }
        Ok(())
    })
}

/// sums += v^T d over some queries, of which those from 0 on are the first; `v` is by panels of keys, `d` by blocks of
/// channels.
fn add(rows: Range<usize>, panels: usize, v: &[Line], d: &[Line], sums: &mut [Line]) {
    let (tiles, first, strides) = (rows.len(), rows.start == 0, [v.len(), d.len()]);
    dispatch(Correlations { points: 1, blocks: v.len() / tiles, panels, tiles, strides, v, d, sums, first });
}

/// Writes the gradients of one head at some positions to their rows.
fn write_rows<T: Element>(
    head: &Head<T>,
    index: usize,
    positions: Range<usize>,
    sums: Sums<&[Line]>,
    to: &mut [T],
) -> Result {
    let (heads, blocks) = (head.heads, head.heads.blocks());
    let place_of_key = |row: usize, block: usize| {
        let row = positions.start + row;
        (row / LANES * blocks + block) * LANES + row % LANES
    };
    // The queries had the factor log2(e) / sqrt(width); the gradient of the keys has 1 / sqrt(width).
    for (k, from, factor) in [(1, sums.keys, LN_2), (2, sums.values, 1.0)] {
        let to = &mut to[k * heads.channels() + index * heads.width..];
        write(heads, from, place_of_key, factor, positions.len(), to);
    }
    let to = &mut to[index * heads.width..];
    if sums.queries.is_empty() {
        return meet_all_keys(head, positions, to);
    }
    let place_of_query = |row: usize, block: usize| {
        let row = positions.start + row;
        let start = row - row % heads.block();
        start * blocks + block * heads.block().min(heads.positions - start) + row - start
    };
    write(heads, sums.queries, place_of_query, heads.scale(), positions.len(), to);
    Ok(())
}

/// The second round for queries `positions`, whose gradients go to the rows of `to`.
fn meet_all_keys<T: Element>(head: &Head<T>, positions: Range<usize>, to: &mut [T]) -> Result {
    let heads = head.heads;
    lend(|[dq, keys, values, by_row, a, b, c, d]| {
        let (keys, mut buffers) = (Keys::new(head, 0..heads.panels(), [keys, values, by_row])?, [a, b, c, d]);
        for start in positions.clone().step_by(heads.block()) {
            let rows = start..positions.end.min(start + heads.block());
            let (tiles, dq) = (rows.len(), sized(dq, heads.blocks() * rows.len())?);
            let v = head.meet(&keys, rows, &mut buffers)?.slopes;
            multiply(Operands {
                arithmetic: Floats,
                run: RUN,
                tiles,
                blocks: keys.panels,
                v,
                u: keys.by_row,
                m: dq,
                first: true,
            });
            let to = &mut to[(start - positions.start) * 3 * heads.channels()..];
            write(heads, dq, |row, block| block * tiles + row, heads.scale(), tiles, to);
        }
        Ok(())
    })
}

fn write<T: Element>(
    heads: &Heads,
    from: &[Line],
    place: impl Fn(usize, usize) -> usize,
    factor: f32,
    count: usize,
    to: &mut [T],
) {
    let (width, stride) = (heads.width, 3 * heads.channels());
    dispatch(ToRows { from, place, factors: &|_| factor, bias: None, add: false, count, width, stride, to });
}
