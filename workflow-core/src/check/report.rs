//! What a check found: problems, each once, with the runs that have it.

use std::fmt;

use keepstep_storage::RunId;
use serde::Serialize;

/// How many ids of runs a problem names.
const MAX_IDS: usize = 5;
/// How many different problems a report tells; more are counted.
const MAX_PROBLEMS: usize = 1000;

/// What the code of this program cannot go on with of what a store holds: see [`Engine::check`](crate::Engine::check).
///
/// It can be printed for people, and serialized for tools. It is small however many runs there are: what many runs have in common
/// is one [`Problem`], which counts them.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// How many runs were looked at: those that have not ended, and those that failed.
    pub runs: u64,
    /// How many actors were looked at.
    pub actors: u64,
    /// How many schedules were looked at.
    pub schedules: u64,
    problems: Vec<Problem>,
    /// How many findings there were beyond the different problems that a report tells.
    pub left_out: u64,
    #[serde(skip)]
    last_holders: Vec<RunId>,
}

/// One thing that this program cannot go on with, or perhaps not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// Whether it was tried, or is only to be feared.
    pub certainty: Certainty,
    /// What has it.
    pub holder: Holder,
    /// What it is.
    #[serde(flatten)]
    pub cause: Cause,
    /// The ids of the first that have it.
    pub ids: Vec<String>,
    /// How many have it.
    pub count: u64,
}

/// How sure a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// It was tried: what is stored does not fit the code.
    Certain,
    /// A value that is not there yet may not fit, as far as types tell.
    Possible,
}

/// What a problem was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// A run that is pending, running, resumable or suspended.
    Run,
    /// A run that failed, and that a `resume` would try again.
    FailedRun,
    /// An actor.
    Actor,
    /// A schedule: the runs that it is to start.
    Schedule,
}

/// What a problem is. The message of one that many have in common is that of the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The program has no such step.
    UnknownStep {
        /// The step.
        step: String,
        /// The version that is called.
        version: u32,
        /// The versions of it that the program can run.
        known: Vec<u32>,
    },
    /// An argument does not decode as the parameter.
    Argument {
        /// The step, or the method of an actor.
        step: String,
        /// The version that is called.
        version: u32,
        /// The parameter.
        param: String,
        /// The field; empty for the value itself.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// Arguments of an older version cannot be made those of now.
    Migration {
        /// The step.
        step: String,
        /// The version that is called.
        version: u32,
        /// The version that accepts its calls.
        to: u32,
        /// What the migration said.
        message: String,
    },
    /// The engine lacks a resource.
    Resource {
        /// The step.
        step: String,
        /// The parameter.
        param: String,
        /// Its type.
        type_name: String,
    },
    /// The program has no such actor.
    UnknownActor {
        /// The name of its type.
        actor: String,
    },
    /// The state of an actor does not decode, or cannot be migrated.
    State {
        /// The name of its type.
        actor: String,
        /// The version that stored it.
        version: u32,
        /// The field; empty for the state itself.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// A call was sent to an actor of a method that it does not have.
    UnknownMethod {
        /// The name of its type.
        actor: String,
        /// The method.
        method: String,
    },
    /// What is stored is damaged.
    Damaged {
        /// What is wrong.
        message: String,
    },
}

impl Report {
    /// Whether everything that has not ended can go on with this program, as far as it can be tried: there is no
    /// [certain](Certainty::Certain) problem but in runs that failed.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.left_out == 0 && !self.problems.iter().any(Problem::is_serious)
    }

    /// Every problem, those that are certain first.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// For tests: nothing, if the report [is ok](Self::is_ok).
    ///
    /// # Panics
    /// If it is not, with the report as the message.
    #[track_caller]
    pub fn assert_ok(&self) {
        assert!(self.is_ok(), "{self}");
    }

    pub(super) fn add(&mut self, certainty: Certainty, holder: Holder, id: &RunId, cause: Cause) {
        let is_same = |known: &Problem| {
            known.certainty == certainty && known.holder == holder && known.cause.is_same(&cause)
        };
        if let Some(place) = self.problems.iter().position(is_same) {
            let problem = &mut self.problems[place];
            if self.last_holders[place] != *id {
                self.last_holders[place] = id.clone();
                problem.count += 1;
                if problem.ids.len() < MAX_IDS {
                    problem.ids.push(id.to_string());
                }
            }
        } else if self.problems.len() == MAX_PROBLEMS {
            self.left_out += 1;
        } else {
            self.problems.push(Problem {
                certainty,
                holder,
                cause,
                ids: vec![id.to_string()],
                count: 1,
            });
            self.last_holders.push(id.clone());
        }
    }

    /// Puts what matters most first.
    pub(super) fn finish(mut self) -> Self {
        self.last_holders = Vec::new();
        self.problems
            .sort_by_key(|problem| (problem.certainty, problem.holder));
        self
    }
}

impl Problem {
    fn is_serious(&self) -> bool {
        self.certainty == Certainty::Certain && self.holder != Holder::FailedRun
    }
}

impl Cause {
    /// Whether it is the same problem, whatever value it was found with.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Argument {
                    step,
                    version,
                    param,
                    field,
                    ..
                },
                Self::Argument {
                    step: other_step,
                    version: other_version,
                    param: other_param,
                    field: other_field,
                    ..
                },
            ) => {
                (step, version, param) == (other_step, other_version, other_param)
                    && without_places(field) == without_places(other_field)
            }
            (
                Self::Migration { step, version, .. },
                Self::Migration {
                    step: other_step,
                    version: other_version,
                    ..
                },
            ) => (step, version) == (other_step, other_version),
            (
                Self::State {
                    actor,
                    version,
                    field,
                    ..
                },
                Self::State {
                    actor: other_actor,
                    version: other_version,
                    field: other_field,
                    ..
                },
            ) => {
                (actor, version) == (other_actor, other_version)
                    && without_places(field) == without_places(other_field)
            }
            _ => self == other,
        }
    }
}

/// `lines[3].price` and `lines[7].price` are one field.
fn without_places(field: &str) -> String {
    let mut inside = false;
    let is_kept = |c: &char| {
        inside = (inside || *c == '[') && *c != ']';
        !(inside && c.is_ascii_digit())
    };
    field.chars().filter(is_kept).collect()
}

fn at_field(field: &str) -> String {
    match field {
        "" => String::new(),
        field => format!(" at field `{field}`"),
    }
}

/// What is wrong, and what to do.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownStep {
                step,
                version,
                known,
            } if known.is_empty() => write!(
                f,
                "this program has no step {step:?} (version {version} is called): bring it back; if it was moved or renamed, \
                 give it its old name with `#[step(name = {step:?})]`"
            ),
            Self::UnknownStep {
                step,
                version,
                known,
            } => {
                let known: Vec<String> = known.iter().map(u32::to_string).collect();
                write!(
                    f,
                    "this program has no version {version} of step {step:?}, but version {}: keep the old function with \
                     `version = {version}`, or let a later one take its calls with `accepts = {version}, migrate = …`",
                    known.join(", ")
                )
            }
            Self::Argument {
                step,
                version,
                param,
                field,
                message,
            } => write!(
                f,
                "argument `{param}` of {step:?} (version {version}) does not decode{}: {message}; give new fields \
                 `#[serde(default)]`, or raise the version of the step and take the old calls with `accepts = {version}, \
                 migrate = …`",
                at_field(field)
            ),
            Self::Migration {
                step,
                version,
                to,
                message,
            } => write!(
                f,
                "the arguments of step {step:?} (version {version}) cannot be migrated to version {to}: {message}; mend the \
                 function that `migrate` names"
            ),
            Self::Resource {
                step,
                param,
                type_name,
            } => write!(
                f,
                "step {step:?} needs the resource `{param}: {type_name}`: give it to the engine with \
                 `Engine::builder().resource(…)`"
            ),
            Self::UnknownActor { actor } => write!(
                f,
                "this program has no actor {actor:?}: bring it back; if it was moved or renamed, give it its old name with \
                 `#[virtual_actor(name = {actor:?})]`"
            ),
            Self::State {
                actor,
                version,
                field,
                message,
            } => write!(
                f,
                "the state of actor {actor:?} (version {version}) does not decode{}: {message}; give new fields \
                 `#[serde(default)]`, or raise the version of the actor and take old states with `migrate = …`",
                at_field(field)
            ),
            Self::UnknownMethod { actor, method } => write!(
                f,
                "actor {actor:?} has no method `{method}`, and calls of it wait: bring it back"
            ),
            Self::Damaged { message } => f.write_str(message),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, many) = match self.holder {
            Holder::Run => ("run", "runs"),
            Holder::FailedRun => ("failed run", "failed runs"),
            Holder::Actor => ("", "actors"),
            Holder::Schedule => ("", "schedules"),
        };
        let certainty = match self.certainty {
            Certainty::Certain => "",
            Certainty::Possible => "perhaps: ",
        };
        write!(f, "{certainty}{} (", self.cause)?;
        if self.count > 1 {
            write!(f, "{} {many}: ", self.count)?;
        } else if !one.is_empty() {
            write!(f, "{one} ")?;
        }
        f.write_str(&self.ids.join(", "))?;
        f.write_str(match self.count as usize > self.ids.len() {
            true => ", …)",
            false => ")",
        })
    }
}

/// A line for people, and one for each problem.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            runs,
            actors,
            schedules,
            ..
        } = self;
        write!(
            f,
            "{} of {runs} runs, {actors} actors and {schedules} schedules",
            match (self.is_ok(), self.problems.is_empty()) {
                (true, true) => "this program can go on with all",
                (true, false) => "this program can go on with all, as far as is certain,",
                _ => "this program cannot go on with all",
            }
        )?;
        for problem in &self.problems {
            write!(f, "\n- {problem}")?;
        }
        if self.left_out > 0 {
            write!(f, "\n- and {} findings more", self.left_out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(field: &str, message: &str) -> Cause {
        Cause::Argument {
            step: "charge".into(),
            version: 1,
            param: "order".into(),
            field: field.into(),
            message: message.into(),
        }
    }

    #[test]
    fn what_many_runs_have_in_common_is_one_problem() {
        let mut report = Report::default();
        for n in 0..100u32 {
            let id = RunId::new(format!("run-{n}")).unwrap();
            for place in [n, n + 1] {
                let cause = argument(&format!("lines[{place}].price"), &n.to_string());
                report.add(Certainty::Certain, Holder::Run, &id, cause);
            }
        }
        let report = report.finish();
        let [problem] = report.problems() else {
            panic!("{report}");
        };
        assert_eq!((problem.count, problem.ids.len()), (100, MAX_IDS));
        assert!(!report.is_ok());
        let told = report.to_string();
        assert!(told.contains("100 runs: run-0, run-1"), "{told}");
        assert!(told.contains("at field `lines[0].price`: 0"), "{told}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["problems"][0]["problem"], "argument");
        assert_eq!(json["problems"][0]["param"], "order");
    }

    #[test]
    fn a_report_stays_small_and_says_that_it_left_something_out() {
        let mut report = Report::default();
        for n in 0..MAX_PROBLEMS + 7 {
            let id = RunId::new("run").unwrap();
            let message = n.to_string();
            report.add(
                Certainty::Possible,
                Holder::Run,
                &id,
                Cause::Damaged { message },
            );
        }
        assert_eq!((report.problems.len(), report.left_out), (MAX_PROBLEMS, 7));
        assert!(!report.is_ok(), "what was left out may be certain");
    }

    #[test]
    fn failed_runs_and_possible_problems_are_told_and_are_no_failure() {
        let mut report = Report::default();
        let id = RunId::new("run").unwrap();
        report.add(
            Certainty::Certain,
            Holder::FailedRun,
            &id,
            argument("", "m"),
        );
        report.add(Certainty::Possible, Holder::Run, &id, argument("", "m"));
        let report = report.finish();
        assert!(report.is_ok());
        assert_eq!(report.problems().len(), 2);
        report.assert_ok();
    }
}
