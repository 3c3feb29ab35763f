//! Random operations against a naive model: a set of granule numbers per content.

use std::collections::BTreeSet;

use backlot_cache::{CacheError, Content, ContentCache, GRANULE, Hit, Residency};
use proptest::prelude::*;

use crate::common::*;

const G: u64 = GRANULE;
/// Two segments and a tail; a few granules and a tail; less than a granule.
const LENGTHS: [u64; 3] = [1030 * G + 77, 5 * G + 1, 300];

#[derive(Clone, Debug)]
enum Op {
    Fill { content: usize, from: u64, count: u64 },
    Read { content: usize, from: u64, len: u64 },
    Missing { content: usize, from: u64, len: u64 },
    Drop { content: usize, from: u64, len: u64 },
    Release { content: usize },
    Evict { content: usize },
    Flush,
    Reopen,
}

/// Offsets near both ends and the border of segments, where mistakes live.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![0..6 * G, 1021 * G..1031 * G, Just(0), Just(1024 * G)]
}

fn op() -> impl Strategy<Value = Op> {
    let content = 0..LENGTHS.len();
    prop_oneof![
        6 => (content.clone(), offset(), 1u64..6).prop_map(|(content, at, count)| Op::Fill { content, from: at / G, count }),
        6 => (content.clone(), offset(), 0..4 * G).prop_map(|(content, from, len)| Op::Read { content, from, len }),
        2 => (content.clone(), offset(), 0..1031 * G).prop_map(|(content, from, len)| Op::Missing { content, from, len }),
        2 => (content.clone(), offset(), 0..4 * G).prop_map(|(content, from, len)| Op::Drop { content, from, len }),
        1 => content.clone().prop_map(|content| Op::Release { content }),
        1 => content.prop_map(|content| Op::Evict { content }),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

struct World {
    cache: ContentCache,
    handles: Vec<Option<Content>>,
    model: Vec<BTreeSet<u64>>,
}

fn size(content: usize, granule: u64) -> u64 {
    G.min(LENGTHS[content] - granule * G)
}

impl World {
    fn handle(&mut self, content: usize) -> Content {
        let cache = &self.cache;
        self.handles[content]
            .get_or_insert_with(|| cache.content(id(content as u8), LENGTHS[content]).unwrap())
            .clone()
    }

    fn absent(&self, content: usize, from: u64, len: u64) -> Vec<u64> {
        let (from, to) = (from.min(LENGTHS[content]), (from + len).min(LENGTHS[content]));
        let granules = if from == to { 0..0 } else { from / G..to.div_ceil(G) };
        granules.filter(|g| !self.model[content].contains(g)).collect()
    }

    fn flat(content: usize, ranges: &[std::ops::Range<u64>]) -> Vec<u64> {
        assert!(
            ranges.windows(2).all(|pair| pair[0].end < pair[1].start),
            "not merged: {ranges:?}"
        );
        assert!(
            ranges
                .iter()
                .all(|r| r.start % G == 0 && (r.end % G == 0 || r.end == LENGTHS[content]) && !r.is_empty())
        );
        ranges.iter().flat_map(|r| r.start / G..r.end.div_ceil(G)).collect()
    }

    fn apply(&mut self, op: &Op, dir: &std::path::Path) {
        match *op {
            Op::Fill { content, from, count } => {
                let granules = LENGTHS[content].div_ceil(G);
                let range = from.min(granules - 1)..(from + count).min(granules).max(from.min(granules - 1) + 1);
                fill(&self.handle(content), range.clone());
                self.model[content].extend(range);
            }
            Op::Read { content, from, len } => {
                let absent = self.absent(content, from, len);
                let handle = self.handle(content);
                match handle.read(from..from + len).unwrap() {
                    Hit::Full(_) => {
                        assert!(absent.is_empty());
                        read(&handle, from..from + len);
                    }
                    Hit::Missing(ranges) => assert_eq!(Self::flat(content, &ranges), absent),
                }
            }
            Op::Missing { content, from, len } => {
                let ranges = self.handle(content).missing(from..from + len).unwrap();
                assert_eq!(Self::flat(content, &ranges), self.absent(content, from, len));
            }
            Op::Drop { content, from, len } => {
                let absent = self.absent(content, from, len);
                let dropped = self.handle(content).drop_granules(from..from + len).unwrap();
                let (from, to) = (from.min(LENGTHS[content]), (from + len).min(LENGTHS[content]));
                let mut expected = 0;
                if from < to {
                    for g in (from / G..to.div_ceil(G)).filter(|g| !absent.contains(g)) {
                        expected += size(content, g);
                        self.model[content].remove(&g);
                    }
                }
                assert_eq!(dropped, expected);
            }
            Op::Release { content } => self.handles[content] = None,
            Op::Evict { content } => match self.cache.evict(id(content as u8)) {
                Ok(freed) => {
                    assert!(self.handles[content].is_none());
                    assert_eq!(
                        freed,
                        self.model[content].iter().map(|g| size(content, *g)).sum::<u64>()
                    );
                    self.model[content].clear();
                }
                Err(e) => assert!(matches!(e, CacheError::Busy) && self.handles[content].is_some()),
            },
            Op::Flush => self.cache.flush().unwrap(),
            Op::Reopen => {
                self.handles.fill(None);
                self.cache.close().unwrap();
                self.cache = open(dir);
            }
        }
    }

    fn check(&self) {
        let resident = |c: usize| self.model[c].iter().map(|g| size(c, *g)).sum::<u64>();
        let usage = self.cache.usage();
        assert_eq!(usage.bytes, (0..LENGTHS.len()).map(resident).sum::<u64>());
        assert_eq!(usage.granules, self.model.iter().map(|m| m.len() as u64).sum::<u64>());
        assert_eq!(usage.bad_granules, 0);
        for (content, &len) in LENGTHS.iter().enumerate() {
            let expected = match resident(content) {
                0 => Residency::None,
                r if r == len => Residency::Full,
                r => Residency::Partial(r),
            };
            assert_eq!(self.cache.residency(id(content as u8), len).unwrap(), expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_cache_knows_what_the_model_knows(ops in proptest::collection::vec(op(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World { cache: open(dir.path()), handles: vec![None; LENGTHS.len()], model: vec![BTreeSet::new(); LENGTHS.len()] };
        for op in &ops {
            world.apply(op, dir.path());
            world.check();
        }
    }
}
