//! What must hold when a run has ended.

use super::{End, Sim};
use crate::run::tests::interpreter::Verdict;
use crate::run::tests::programs::uid_of;

impl Sim<'_> {
    /// Checks that the run ended as the program says, with what that means for what ran and what is kept.
    pub(in super::super) fn check_end(&mut self, end: &End) {
        let interpreter = &self.interpreter;
        let counts = self.run.counts();
        match (interpreter.verdict(), end) {
            (Verdict::Succeeds, End::Successful(output)) => {
                let root = interpreter.index.program.root().uid;
                interpreter.check(root, output, &mut self.choices);
                assert_eq!(counts.done + counts.failed, counts.total);
                assert_eq!(self.run.progress().waiting, 0);
                assert_eq!(self.run.progress().running, 0);
                self.check_needed();
                self.check_memory();
            }
            (Verdict::Fails(possible), End::Failed(error)) => {
                let failed = interpreter.check_error(error, possible);
                assert!(self.known.failed.contains(&failed));
                assert!(counts.failed > 0);
            }
            other => panic!("{other:?}"),
        }
        for (name, value) in &self.known.named {
            self.interpreter
                .check(uid_of(name), value, &mut self.choices);
        }
    }

    /// Every step whose result is needed has one, after exactly as many failures as the program says.
    fn check_needed(&self) {
        let index = self.interpreter.index;
        self.interpreter.for_each_needed(&mut |uid| {
            let node = index.node(uid);
            if let Some(step) = node.step().filter(|step| !step.is_volatile) {
                assert!(self.known.results.contains(&uid), "{uid} has no result");
                let fails = self.interpreter.fails(uid);
                assert_eq!(self.known.attempts(uid), fails, "{step:?}");
            }
            if node.is_named && node.step().is_none_or(|step| !step.is_volatile) {
                assert!(self.known.named.contains_key(&node.label()), "of {uid}");
            }
        });
    }

    /// A run that is successful needs nothing but its output.
    fn check_memory(&mut self) {
        assert!(self.run.segments.is_empty());
        assert_eq!(self.run.live_bytes(), 0);
        assert_eq!(self.run.next_timer(), None);
        assert!(self.run.take_stops().is_empty());
        assert!(self.run.take_named().is_empty());
        for step in self.run.take_ready() {
            assert!(self.run.start(step).is_none());
        }
    }
}
