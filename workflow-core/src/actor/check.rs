//! Whether this program could go on with an actor as it is stored: its state, and the calls that wait for it.

use std::sync::Arc;

use keepstep_storage::{RunId, ValueKey};

use super::agenda::Agenda;
use super::def::{ActorDef, StoredState, actors};
use super::stored::{self, Call, Message, State};
use crate::check::{Cause, Certainty, guarded};
use crate::engine::Shared;
use crate::error::{Damage, Error, Result};
use crate::source::Source;
use crate::step::{Fault, StepFault, StepInput};

/// How many messages are read at a time.
const PAGE: usize = 256;

/// What is wrong with an actor. Nothing of it is changed.
pub(crate) async fn findings(shared: &Arc<Shared>, id: &RunId) -> Result<Vec<(Certainty, Cause)>> {
    let name = id.parts().nth(1).unwrap_or_default().to_owned();
    let def = actors()?.get(&*name).copied();
    let mut findings = Vec::new();
    let mut has_calls = false;
    if let Some(def) = def {
        findings.extend(state(shared, id, def).await?);
    }
    let agenda = Agenda::read(&*shared.storage, id).await?;
    for call in agenda.calls() {
        has_calls = true;
        findings.extend(def.into_iter().flat_map(|def| waiting(shared, def, call)));
    }
    let mut after = None;
    loop {
        let page = shared.storage.inbox(id, after, PAGE).await?;
        let is_last = page.len() < PAGE;
        for message in page {
            after = Some(message.id);
            let call = match stored::decode(id, "message", &message.body)? {
                Message::Call { call, .. } => call,
                Message::Remind { reminder, .. } => reminder.call,
                Message::Forget { .. } => continue,
            };
            has_calls = true;
            findings.extend(def.into_iter().flat_map(|def| waiting(shared, def, &call)));
        }
        if is_last {
            break;
        }
    }
    if def.is_none() {
        // Without calls that wait, nothing asks for it but code that this program does not have.
        let certainty = match has_calls {
            true => Certainty::Certain,
            false => Certainty::Possible,
        };
        findings.push((certainty, Cause::UnknownActor { actor: name }));
    }
    Ok(findings)
}

async fn state(
    shared: &Arc<Shared>,
    id: &RunId,
    def: &'static ActorDef,
) -> Result<Option<(Certainty, Cause)>> {
    let Some(bytes) = shared.storage.value(id, &ValueKey::State).await? else {
        if shared.storage.record(id).await?.is_none() {
            // Deleted since it was listed.
            return Ok(None);
        }
        return Err(Error::Damaged {
            run: id.clone(),
            damage: Damage::Missing { what: "state" },
        });
    };
    let State { version, value } = stored::decode(id, "state", &bytes)?;
    let stored = StoredState { version, value };
    let Err(StepFault(Fault::Undecodable { error, .. })) = def.read(&stored, &shared.objects)
    else {
        return Ok(None);
    };
    let cause = Cause::State {
        actor: def.name.to_owned(),
        version,
        field: error.field,
        message: error.message,
    };
    Ok(Some((Certainty::Certain, cause)))
}

/// What is wrong with a call that waits.
fn waiting(shared: &Arc<Shared>, def: &'static ActorDef, call: &Call) -> Vec<(Certainty, Cause)> {
    let Some(method) = def.method(&call.method) else {
        let (actor, method) = (def.name.to_owned(), call.method.clone());
        return vec![(Certainty::Certain, Cause::UnknownMethod { actor, method })];
    };
    let step = method.step;
    let id = Source::Seq(Vec::new());
    let args = call.args.iter().cloned().map(Source::Value);
    let input = StepInput {
        def: step,
        args: std::iter::once(id).chain(args).collect(),
        shared: Some(Arc::clone(shared)),
    };
    let probes = (1..step.params.len())
        .map(|index| guarded(step.params[index], || step.types.probe(&input, index)).err());
    let faults = probes.flatten().chain(too_many(&input));
    let causes = faults.filter_map(|StepFault(fault)| match fault {
        Fault::Undecodable { param, error } => Some(Cause::Argument {
            step: step.name.to_owned(),
            version: step.version,
            param: param.to_owned(),
            field: error.field,
            message: error.message,
        }),
        _ => None,
    });
    causes.map(|cause| (Certainty::Certain, cause)).collect()
}

/// A call has arguments that the method does not take.
pub(super) fn too_many(input: &StepInput) -> Option<StepFault> {
    let (n_args, n_params) = (input.args.len(), input.def.params.len());
    // The first of each is the actor's id, of which callers know nothing.
    (n_args > n_params).then(|| crate::executor::too_many(n_args - 1, n_params - 1))
}
