//! What programs come to, by direct interpretation: where that depends on what was first, the steps that read it tell.

use crate::ledger::{Ledger, Saw};
use crate::programs::{CLOCK, Prog, Spec, value_of};

/// What the steps of a run were given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Witness<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) run: &'a str,
}

impl Witness<'_> {
    fn saw(&self, label: u32) -> Option<Saw> {
        self.ledger.what_was_seen(self.run, label)
    }
}

impl Spec {
    /// Whether its body never gives a result, when all that was broken is mended.
    fn is_hopeless(&self) -> bool {
        // A polite one may end early, when it is told to stop, and is in time then.
        self.fails > self.retries || self.is_slow() && !self.is_polite
    }

    fn may_fail(&self) -> bool {
        self.is_hopeless() || self.is_slow()
    }

    /// Whether its body takes longer than it may.
    fn is_slow(&self) -> bool {
        self.limit_ms > 0 && self.limit_ms < self.sleeps_ms
    }
}

impl Prog {
    /// What the program comes to if it succeeds, when all that was broken is mended; `None` if it cannot, or a part of it was
    /// not reached that decides.
    pub(crate) fn value(&self, run: Witness<'_>) -> Option<i64> {
        let spec = self.spec();
        if spec.is_hopeless() {
            return None;
        }
        let own = value_of(spec);
        let read_by = |readers: &[Spec; 2], value: i64| {
            let is_read = !readers.iter().any(Spec::is_hopeless);
            is_read.then_some(2 * value + own)
        };
        match self {
            Self::Leaf(_) | Self::Nap(..) | Self::Event(..) => Some(own),
            Self::Gather(_, of) | Self::All(_, of, _) => {
                let of: Option<Vec<i64>> = of.iter().map(|of| of.value(run)).collect();
                Some(of?.iter().sum::<i64>() + own)
            }
            Self::Twice(_, of) => Some(2 * of.value(run)? + own),
            Self::Expand(_, into) => into.value(run),
            Self::Loop(_, rounds) => Some((1..=i64::from(*rounds)).sum()),
            Self::After(_, of) => of.value(run).map(|_| own),
            Self::Catch(_, of) => match run.saw(spec.label)?.place {
                Some(_) => Some(of.value(run)? + own),
                None => of.may_fail().then_some(own - 1),
            },
            Self::First(_, readers, of, _) => {
                let place = run.saw(spec.label)?.place?;
                read_by(readers, of.get(place)?.value(run)?)
            }
            Self::Race(_, readers, of, _) => match run.saw(spec.label)?.place? {
                0 => read_by(readers, of.value(run)?),
                _ => read_by(readers, CLOCK),
            },
            Self::Child(_, id, of, _) => {
                let run = Witness { run: id, ..run };
                Some(of.value(run)? + own)
            }
        }
    }

    /// Whether the program may fail when all that was broken is mended.
    pub(crate) fn may_fail(&self) -> bool {
        let is_limited = match self {
            Self::First(_, _, _, limit)
            | Self::All(_, _, limit)
            | Self::Event(_, _, limit)
            | Self::Child(_, _, _, limit) => limit.is_some(),
            _ => false,
        };
        let is_unread = match self {
            Self::First(_, readers, ..) | Self::Race(_, readers, ..) => {
                readers.iter().any(Spec::may_fail)
            }
            _ => false,
        };
        let is_caught = matches!(self, Self::Catch(..));
        self.spec().may_fail()
            || is_limited
            || is_unread
            || !is_caught && self.parts().iter().any(Self::may_fail)
    }

    /// Whether every part of it succeeds, so that all of them run.
    pub(crate) fn is_sure(&self) -> bool {
        let mut is_sure = true;
        self.each(&mut |part| {
            let is_race = matches!(part, Self::First(..) | Self::Race(..));
            is_sure &= !is_race && !part.may_fail();
        });
        is_sure
    }

    /// The runs that were started for what the readers say was not needed in the end.
    pub(crate) fn abandoned(&self, run: Witness<'_>) -> Vec<String> {
        let mut found = Vec::new();
        self.each(&mut |part| {
            let place = match part {
                Self::First(..) | Self::Race(..) | Self::Catch(..) => run.saw(part.spec().label),
                _ => None,
            };
            let Some(Saw { place, .. }) = place else {
                return;
            };
            for (at, of) in part.parts().iter().enumerate() {
                if place != Some(at) {
                    of.each(&mut |part| {
                        if let Self::Child(_, id, ..) = part {
                            found.push(id.clone());
                        }
                    });
                }
            }
        });
        found
    }
}
