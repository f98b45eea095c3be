//! Random orders of events: whatever happens, a container ends once and ends well.

use proptest::prelude::*;
use shim_api::{Checkpoint, Exec, Kill, KillExec, Restore, Start, State, Update};

use super::tests::{Desk, INIT, failure, record};
use super::*;

fn any_event() -> impl Strategy<Value = Event> {
    let pid = prop_oneof![Just(INIT), 1..6];
    let made = (prop_oneof![Just(INIT), 1..6], any::<bool>())
        .prop_map(|(pid, exists)| Made { pid, exists });
    let result = prop_oneof![made.clone().prop_map(Ok), Just(failure())];
    let number = 1..8u32;
    let connection = 1..4u32;
    let call = prop_oneof![
        Just(Call::Create(Create::default())),
        Just(Call::Start(Start {})),
        (1..70, any::<bool>()).prop_map(|(signal, all)| Call::Kill(Kill { signal, all })),
        (0..4i32, 0..2000u64).prop_map(|(id, deadline_ms)| {
            Call::Exec(Exec {
                id: id.to_string(),
                deadline_ms,
                ..Exec::default()
            })
        }),
        (0..4i32).prop_map(|id| Call::KillExec(KillExec { id: id.to_string() })),
        Just(Call::State(State {})),
        Just(Call::Update(Update::default())),
        Just(Call::Checkpoint(Checkpoint {
            images: "/i".into(),
            work: "/w".into(),
            connections: 0,
        })),
        Just(Call::Restore(Restore {
            create: Some(Create::default()),
            images: "/i".into(),
            work: "/w".into(),
            connections: 0,
        })),
    ];
    prop_oneof![
        connection.clone().prop_map(Event::Connected),
        connection.clone().prop_map(Event::Disconnected),
        (connection, call).prop_map(|(connection, call)| Event::Request {
            asker: Asker {
                connection,
                sequence: 0
            },
            call: Some(call),
            descriptors: 0,
        }),
        result.clone().prop_map(Event::CreateEnded),
        result.clone().prop_map(Event::RestoreEnded),
        prop_oneof![Just(Ok(())), Just(failure())].prop_map(Event::CheckpointEnded),
        prop_oneof![Just(Ok(())), Just(failure())].prop_map(Event::StartEnded),
        number
            .clone()
            .prop_map(|number| Event::KillEnded(number, Ok(()))),
        number
            .clone()
            .prop_map(|number| Event::UpdateEnded(number, Ok(()))),
        (number, result).prop_map(|(number, result)| Event::ExecEnded(number, result)),
        (pid, 0..256).prop_map(|(pid, code)| Event::Reaped { pid, code }),
        Just(()).prop_map(|()| Event::InitVanished),
        any::<bool>().prop_map(Event::OomRose),
        (0..3usize).prop_map(Event::Swept),
        Just(()).prop_map(|()| Event::Drained),
        Just(()).prop_map(|()| Event::Tick),
    ]
}

proptest! {
    /// Whatever happens in whatever order: one record at most, a record before the delete, one
    /// delete, nothing after it but answers, and an end once time passes.
    #[test]
    fn any_order_of_events_ends_well(events in proptest::collection::vec(any_event(), 0..60)) {
        let mut desk = Desk::new();
        let mut all = Vec::new();
        for (second, event) in events.into_iter().enumerate() {
            if desk.machine.is_over() {
                break;
            }
            all.extend(desk.at(u64::try_from(second).unwrap(), event));
        }
        let records = all.iter().filter(|action| matches!(action, Action::WriteRecord(_))).count();
        let deletes = all.iter().filter(|action| **action == Action::Delete).count();
        prop_assert!(records <= 1 && deletes <= 1 && records <= deletes);
        let delete = all.iter().position(|action| *action == Action::Delete);
        let work = |action: &Action| matches!(
            action,
            Action::Create(_)
                | Action::Restore(_)
                | Action::Checkpoint(_)
                | Action::Start
                | Action::Exec { .. }
                | Action::Kill { .. }
                | Action::Update { .. }
        );
        prop_assert!(delete.is_none_or(|place| !all[place..].iter().any(work)));
        // A container that has begun to end comes to its end without further events.
        if desk.machine.awaits_drain() {
            let later = desk.at(1000, Event::Tick);
            prop_assert!(record(&later).is_some());
        }
    }
}
