//! Random programs.

use crate::programs::{Limit, Prog, Spec};

/// Where a part of a program stands.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Another step takes what it yields.
    is_input: bool,
    is_caught: bool,
}

/// Makes random programs.
#[derive(Debug)]
pub(crate) struct Maker<'a> {
    rng: &'a mut fastrand::Rng,
    /// How the ids of child runs begin.
    prefix: String,
    labels: u32,
    /// How many more steps the program may have.
    room: u32,
}

impl<'a> Maker<'a> {
    pub(crate) fn new(rng: &'a mut fastrand::Rng, prefix: String) -> Self {
        let room = rng.u32(1..20);
        Self {
            rng,
            prefix,
            labels: 0,
            room,
        }
    }

    /// A program.
    pub(crate) fn program(&mut self) -> Prog {
        self.prog(4, Place::default())
    }

    fn prog(&mut self, depth: u32, place: Place) -> Prog {
        let leaf = self.spec(place);
        let spec = Spec {
            is_volatile: false,
            ..leaf.clone()
        };
        self.room = self.room.saturating_sub(1);
        if depth == 0 || self.room == 0 {
            return Prog::Leaf(leaf);
        }
        let inner = |maker: &mut Self, place| Box::new(maker.prog(depth - 1, place));
        let input = Place {
            is_input: true,
            ..place
        };
        let caught = Place {
            is_input: true,
            is_caught: true,
        };
        match self.rng.u8(..20) {
            0..=2 => Prog::Leaf(leaf),
            3..=5 => Prog::Gather(spec, self.several(depth, input)),
            6 => Prog::Twice(spec, inner(self, input)),
            7 | 8 => Prog::Expand(spec, inner(self, place)),
            9 => Prog::Loop(spec, self.rng.u32(0..6)),
            10 => Prog::Catch(spec, inner(self, caught)),
            11 => Prog::Nap(spec, self.millis()),
            12 => Prog::After(spec, inner(self, input)),
            13 => {
                let readers = self.readers(place);
                let of = self.several(depth, input);
                Prog::First(spec, readers, of, self.limit())
            }
            14 => {
                let readers = self.readers(place);
                let of = inner(self, input);
                Prog::Race(spec, readers, of, self.millis())
            }
            15 => {
                let of = self.several(depth, input);
                Prog::All(spec, of, self.limit())
            }
            16 | 17 => Prog::Event(spec, format!("e{}", self.rng.u8(..3)), self.limit()),
            _ => {
                let of = Place {
                    is_input: false,
                    ..place
                };
                let id = format!("{}.{}", self.prefix, spec.label);
                Prog::Child(spec, id, inner(self, of), self.limit())
            }
        }
    }

    fn several(&mut self, depth: u32, place: Place) -> Vec<Prog> {
        let width = self.rng.usize(1..=6);
        (0..width).map(|_| self.prog(depth - 1, place)).collect()
    }

    fn readers(&mut self, place: Place) -> [Spec; 2] {
        [(); 2].map(|()| Spec {
            is_volatile: false,
            ..self.spec(place)
        })
    }

    /// How long a wait takes: some are over at once, some while the run is in memory, some after it has left it.
    fn millis(&mut self) -> u64 {
        match self.rng.u8(..4) {
            0 => self.rng.u64(0..20),
            1 => self.rng.u64(20..2000),
            2 => self.rng.u64(2000..30_000),
            _ => self.rng.u64(30_000..300_000),
        }
    }

    fn limit(&mut self) -> Limit {
        (self.rng.u8(..5) == 0).then(|| self.millis())
    }

    fn spec(&mut self, place: Place) -> Spec {
        self.labels += 1;
        let rng = &mut *self.rng;
        let retries = rng.u32(0..4);
        let is_volatile = rng.u8(..6) == 0;
        let fails = match rng.u8(..20) {
            0..=13 => 0,
            14..=18 => rng.u32(0..=retries),
            _ => retries + 1,
        };
        let sleeps_ms = if rng.bool() { 0 } else { rng.u64(0..400) };
        Spec {
            label: self.labels,
            fails,
            retries,
            panics: rng.u8(..4) == 0,
            sleeps_ms,
            limit_ms: match rng.u8(..20) {
                0 => sleeps_ms + 50,
                // What never ends in time fails for good.
                1 if rng.u8(..4) == 0 => sleeps_ms / 2,
                _ => 0,
            },
            is_polite: rng.bool(),
            is_volatile,
            is_patient: rng.u8(..6) == 0,
            // Who waits for a run would read its long output, and several do that in no certain order.
            is_big: place.is_input && !is_volatile && rng.u8(..40) == 0,
            is_named: rng.u8(..4) == 0,
            // What is caught must come to the same before and after it is mended.
            is_broken: !place.is_caught && rng.u8(..60) == 0,
            origin: String::new(),
        }
    }
}
