//! Services that say in each way that they are ready.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{net::TcpListener, os::unix::net::UnixListener};

use common::{Bench, assert_fails, can_attach, stderr};

/// The service `notes` at this port with these arguments, ready in this way.
fn notes(port: u16, args: &str, ready: &str) -> Bench {
    let http = format!("ready: {{ http: \"http://127.0.0.1:{port}/healthz\", timeout: 60s }}");
    let directory = "directory: .\n      ready: ";
    Bench::service("notes", port, args)
        .with(&http, &format!("{directory}{{ {ready}, timeout: 60s }}"))
        .with("/login", "/notes")
        .with("warmup: 1s, measure: 3s, drain: 1s", "warmup: 0s, measure: 1s, drain: 0s")
}

#[test]
fn a_service_says_in_each_way_that_it_is_ready() {
    if !can_attach() {
        return;
    }
    for (args, ready) in [
        ("", r#"tcp: "127.0.0.1:18181""#),
        (", -socket, app.sock", "unix: app.sock"),
        (", -socket, \"@memgate-notes-18181\"", "unix: \"@memgate-notes-18181\""),
        (", -start-for, 1s", r#"log: "^notes: listening on .*:18181$""#),
        (", -start-for, 1s", r#"command: [sh, -c, "echo asked; id -u; grep -q ':4705 ' /proc/net/tcp"]"#),
        (", -notify, -start-for, 1s", "notify: true"),
    ] {
        let bench = notes(18181, args, ready);
        let output = bench.run("record", &[]);
        assert_eq!(output.status.code(), Some(0), "{ready}: {}", stderr(&output));
    }
}

#[test]
fn what_a_service_that_is_not_ready_did_last_is_told() {
    if !can_attach() {
        return;
    }
    let case = |args: &str, ready: &str, words: &[&str]| {
        let bench = notes(18182, args, ready).with("timeout: 60s }\n      stop", "timeout: 2s }\n      stop");
        assert_fails(&bench.run("check", &[]), 4, &[&["launch:", "the service was not ready in time"], words].concat());
    };
    case(
        "",
        "log: \"ready to serve\"",
        &["no line of its output had matched `ready to serve`", "| notes: listening on"],
    );
    case("", "unix: none/app.sock", &["there was no socket none/app.sock"]);
    case("", "command: [sh, -c, \"echo no table; exit 3\"]", &["exited with code 3 and said `no table`"]);
    case(", -notify, -start-for, 1h", "notify: true", &["had not sent READY=1; its status was `starting`"]);
}

#[test]
fn what_another_process_has_is_no_sign_of_the_service() {
    if !can_attach() {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:18183").unwrap();
    let bench = notes(18183, "", "log: listening");
    let words = ["Another process listens at 127.0.0.1:18183"];
    assert_fails(&bench.run("check", &[]), 4, &words);
    drop(taken);
    let bench = notes(18183, "", "unix: app.sock");
    let _taken = UnixListener::bind(bench.directory.path().join("app.sock")).unwrap();
    assert_fails(&bench.run("check", &[]), 4, &["Another process listens at the socket app.sock"]);
}
