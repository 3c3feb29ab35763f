//! Who is told what, and what is never said.

use super::*;

fn facts(outcome: Outcome) -> Facts {
    let teller = Teller {
        drive: "projects".to_owned(),
        machine: "ws-042".to_owned(),
        store: "s".to_owned(),
    };
    Facts::sample(&teller, outcome)
}

#[test]
fn receivers_choose_by_project_site_and_outcome() {
    let receiver = |projects: &[&str], sites: &[&str], on| Receiver {
        projects: projects.iter().map(|&name| name.to_owned()).collect(),
        sites: sites.iter().map(|&name| name.to_owned()).collect(),
        on,
        ..Receiver::default()
    };
    let (done, failed) = (facts(Outcome::Done), facts(Outcome::Failed));
    for (receiver, of_done, of_failed) in [
        (receiver(&[], &[], Occasion::All), true, true),
        (receiver(&[], &[], Occasion::Failure), false, true),
        (receiver(&[], &[], Occasion::Success), true, false),
        (receiver(&["other", "demo"], &[], Occasion::All), true, true),
        (receiver(&["other"], &[], Occasion::All), false, false),
        (receiver(&["demo"], &["studio"], Occasion::All), true, true),
        (receiver(&[], &["london"], Occasion::All), false, false),
    ] {
        assert_eq!(
            (wants(&receiver, &done), wants(&receiver, &failed)),
            (of_done, of_failed),
            "{receiver:?}"
        );
    }
}

#[test]
fn a_way_is_shown_without_what_may_be_a_secret() {
    let webhook = Receiver {
        webhook: Some("https://hooks.studio.example/services/T0/B0/topsecret?token=x".to_owned()),
        ..Receiver::default()
    };
    assert_eq!(way(&webhook, ""), "webhook at hooks.studio.example");
    let command = Receiver {
        command: vec!["/bin/told".to_owned(), "--token=topsecret".to_owned()],
        ..Receiver::default()
    };
    assert_eq!(way(&command, ""), "command /bin/told");
}

#[test]
fn waits_double_up_to_a_quarter_of_an_hour() {
    assert_eq!([1, 2, 3].map(backoff), [5, 10, 20].map(Duration::from_secs));
    assert_eq!(backoff(40), RETRY_MAX);
}
