//! Tests of [`super`]: single rules, then random histories.

use proptest::prelude::*;

use super::*;

const A: Request<'_> = Request::Create {
    id: "a",
    name: "web",
    attempt: 0,
};

fn ready() -> Lifecycle {
    Lifecycle::recovered(SandboxPhase::Ready)
}

#[track_caller]
fn begin(pod: &mut Lifecycle, request: Request<'_>) -> OperationId {
    match pod.ask(request) {
        Verdict::Begin(operation) => operation,
        other => panic!("{request:?}: {other:?}"),
    }
}

/// Begins a request and ends it well.
#[track_caller]
fn go(pod: &mut Lifecycle, request: Request<'_>) {
    let operation = begin(pod, request);
    pod.finish(operation, true);
}

fn stop(id: &str, seconds: u64) -> Request<'_> {
    Request::Stop {
        id,
        deadline: Duration::from_secs(seconds),
    }
}

#[test]
fn a_whole_life() {
    let (mut pod, run) = Lifecycle::reserved();
    assert_eq!(pod.ask(A), Verdict::Refuse(Refusal::SandboxNotReady));
    assert_eq!(pod.ask(Request::Run), join(run));
    pod.finish(run, true);
    assert_eq!(pod.ask(Request::Run), Verdict::Done);
    go(&mut pod, A);
    assert_eq!(pod.container("a"), Some(ContainerPhase::Created));
    assert!(pod.usable("a").is_err());
    go(&mut pod, Request::Start { id: "a" });
    pod.usable("a").unwrap();
    go(&mut pod, stop("a", 30));
    assert_eq!(pod.ask(stop("a", 30)), Verdict::Done);
    go(&mut pod, Request::Remove { id: "a" });
    assert_eq!(pod.ask(Request::Remove { id: "a" }), Verdict::Done);
    go(&mut pod, Request::StopSandbox);
    assert_eq!(pod.ask(Request::StopSandbox), Verdict::Done);
    go(&mut pod, Request::RemoveSandbox);
    assert_eq!(pod.sandbox(), None);
    assert_eq!(pod.ask(Request::RemoveSandbox), Verdict::Done);
}

#[test]
fn a_retry_finds_what_was_made() {
    let mut pod = ready();
    let create = begin(&mut pod, A);
    let again = Request::Create {
        id: "b",
        name: "web",
        attempt: 0,
    };
    assert_eq!(pod.ask(again), join(create));
    pod.finish(create, true);
    assert_eq!(pod.ask(again), Verdict::Exists("a".into()));
    go(&mut pod, Request::Start { id: "a" });
    assert_eq!(
        pod.ask(again),
        Verdict::Refuse(Refusal::NameTaken { id: "a".into() })
    );
    go(
        &mut pod,
        Request::Create {
            id: "b",
            name: "web",
            attempt: 1,
        },
    );
}

#[test]
fn a_failed_creation_leaves_the_name_free() {
    let mut pod = ready();
    let create = begin(&mut pod, A);
    pod.finish(create, false);
    begin(
        &mut pod,
        Request::Create {
            id: "b",
            name: "web",
            attempt: 0,
        },
    );
}

#[test]
fn start_needs_a_created_container() {
    let mut pod = ready();
    let start = Request::Start { id: "a" };
    assert_eq!(
        pod.ask(start),
        Verdict::Refuse(Refusal::NotFound { id: "a".into() })
    );
    go(&mut pod, A);
    let operation = begin(&mut pod, start);
    assert_eq!(pod.ask(start), join(operation));
    assert_eq!(pod.ask(stop("a", 1)), after(operation));
    pod.finish(operation, false);
    assert_eq!(pod.container("a"), Some(ContainerPhase::Exited));
    assert!(matches!(
        pod.ask(start),
        Verdict::Refuse(Refusal::WrongPhase { .. })
    ));
}

#[test]
fn an_exit_that_overtakes_the_start_is_not_forgotten() {
    let mut pod = ready();
    go(&mut pod, A);
    let start = begin(&mut pod, Request::Start { id: "a" });
    pod.exited("a");
    pod.finish(start, true);
    assert_eq!(pod.container("a"), Some(ContainerPhase::Exited));
}

#[test]
fn the_nearer_deadline_of_a_stop_wins() {
    let mut pod = ready();
    go(&mut pod, A);
    let operation = begin(&mut pod, stop("a", 30));
    assert_eq!(pod.ask(stop("a", 40)), join(operation));
    assert_eq!(pod.deadline(operation), Some(Duration::from_secs(30)));
    assert_eq!(
        pod.ask(stop("a", 2)),
        Verdict::Join {
            operation,
            hurry: true
        }
    );
    assert_eq!(pod.deadline(operation), Some(Duration::from_secs(2)));
    let remove = Request::Remove { id: "a" };
    assert_eq!(
        pod.ask(remove),
        Verdict::After {
            operation,
            hurry: true
        }
    );
    assert_eq!(pod.deadline(operation), Some(Duration::ZERO));
    pod.finish(operation, true);
    let operation = begin(&mut pod, remove);
    assert_eq!(pod.ask(remove), join(operation));
}

#[test]
fn a_sandbox_that_is_being_stopped_takes_nothing_new() {
    let mut pod = ready();
    go(&mut pod, A);
    let stopping = begin(&mut pod, stop("a", 30));
    let operation = begin(&mut pod, Request::StopSandbox);
    assert_eq!(pod.deadline(stopping), Some(Duration::ZERO));
    assert_eq!(pod.in_the_way(), [stopping]);
    let b = Request::Create {
        id: "b",
        name: "b",
        attempt: 0,
    };
    assert_eq!(pod.ask(b), Verdict::Refuse(Refusal::SandboxNotReady));
    assert_eq!(pod.ask(Request::StopSandbox), join(operation));
    assert_eq!(pod.ask(Request::RemoveSandbox), after(operation));
    pod.finish(stopping, true);
    assert_eq!(pod.ask(Request::Remove { id: "a" }), after(operation));
    pod.finish(operation, true);
    assert_eq!(pod.sandbox(), Some(SandboxPhase::NotReady));
    go(&mut pod, Request::Remove { id: "a" });
}

#[test]
fn a_lost_sandbox_is_stopped_as_long_as_something_lives() {
    let mut pod = ready();
    go(&mut pod, A);
    pod.lost();
    assert_eq!(
        pod.ask(Request::Start { id: "a" }),
        Verdict::Refuse(Refusal::SandboxNotReady)
    );
    go(&mut pod, Request::StopSandbox);
    assert_eq!(pod.ask(Request::StopSandbox), Verdict::Done);
}

#[derive(Clone, Debug)]
enum Step {
    Ask(usize, u8, u64),
    Finish(usize, bool),
    Exit(u8),
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..7usize, 0..3u8, 0..9u64).prop_map(|(verb, id, time)| Step::Ask(verb, id, time)),
        4 => (0..8usize, any::<bool>()).prop_map(|(which, well)| Step::Finish(which, well)),
        1 => (0..3u8).prop_map(Step::Exit),
        1 => Just(Step::Lose),
    ]
}

fn request(verb: usize, id: &str, time: u64) -> Request<'_> {
    match verb {
        0 => Request::Run,
        1 => Request::Create {
            id,
            name: id,
            attempt: 0,
        },
        2 => Request::Start { id },
        3 => stop(id, time),
        4 => Request::Remove { id },
        5 => Request::StopSandbox,
        _ => Request::RemoveSandbox,
    }
}

proptest! {
    /// Whatever is asked, ends and happens in whatever order: the rules hold.
    #[test]
    fn the_rules_hold(steps in proptest::collection::vec(step(), 0..80)) {
        let (mut pod, run) = Lifecycle::reserved();
        let mut under_way = vec![(run, None::<String>)];
        for step in steps {
            match step {
                Step::Ask(verb, id, time) => {
                    let id = id.to_string();
                    let before = pod.clone();
                    match pod.ask(request(verb, &id, time)) {
                        Verdict::Begin(operation) => {
                            let on = (1..=4).contains(&verb).then_some(id);
                            prop_assert!(under_way.iter().all(|(_, busy)| *busy != on));
                            let closed = under_way.iter().any(|(_, busy)| busy.is_none());
                            prop_assert!(!closed, "begun beside work on the sandbox");
                            if matches!(verb, 1 | 2) {
                                prop_assert_eq!(before.sandbox(), Some(SandboxPhase::Ready));
                            }
                            if verb == 2 {
                                let phase = before.container(on.as_ref().unwrap());
                                prop_assert_eq!(phase, Some(ContainerPhase::Created));
                            }
                            under_way.push((operation, on));
                        }
                        Verdict::Join { operation, hurry }
                        | Verdict::After { operation, hurry } => {
                            prop_assert!(under_way.iter().any(|(id, _)| *id == operation));
                            let (old, new) = (before.deadline(operation), pod.deadline(operation));
                            prop_assert_eq!(hurry, new < old);
                        }
                        Verdict::Done => prop_assert!(!matches!(verb, 1 | 2)),
                        Verdict::Exists(_) => prop_assert_eq!(verb, 1),
                        Verdict::Refuse(_) => prop_assert!(verb <= 2, "an end was refused"),
                    }
                }
                Step::Finish(which, well) => {
                    if !under_way.is_empty() {
                        let (operation, _) = under_way.remove(which % under_way.len());
                        pod.finish(operation, well);
                    }
                }
                Step::Exit(id) => pod.exited(&id.to_string()),
                Step::Lose => pod.lost(),
            }
            if pod.sandbox().is_none() {
                prop_assert!(pod.containers.is_empty());
            }
        }
        // Once all that runs has ended, everything can be brought to its end.
        for (operation, _) in under_way {
            pod.finish(operation, true);
        }
        if pod.sandbox().is_some() {
            go(&mut pod, Request::RemoveSandbox);
        }
        prop_assert_eq!(pod.ask(Request::StopSandbox), Verdict::Done);
    }
}
