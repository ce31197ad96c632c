//! Services that say in each way that they are ready, and services that need others: with real databases, and with sidecars
//! that fail.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::{Path, PathBuf},
};

use common::{Bench, assert_fails, can_attach, plain, repository, running::Running, scratch, stderr, stdout};
use memgate_evidence::platform::Platform;
use memgate_files::evidence_file;
use nix::sys::signal::Signal;

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

/// The service `notes` at this port beside these sidecars, with short phases.
fn beside(port: u16, args: &str, sidecars: &str) -> Bench {
    Bench::service("notes", port, args)
        .with("/login", "/notes")
        .with("warmup: 1s, measure: 3s, drain: 1s", "warmup: 0s, measure: 1s, drain: 0s")
        .with("    load:", &format!("    sidecars:\n{sidecars}    load:"))
}

/// A sidecar that says `up`, and when it is asked to end, adds its name to the file `order`.
fn polite(name: &str, order: &Path) -> String {
    let script = format!(
        "trap 'echo {name} >> {}; exit 0' TERM; echo up in $PWD; while :; do sleep 0.05; done",
        order.display()
    );
    format!("      {name}: {{ command: [sh, -c, \"{script}\"], ready: {{ log: up }} }}\n")
}

/// The lines of a file.
fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A file of the results on this platform.
fn log(bench: &Bench, name: &str) -> PathBuf {
    bench.out().join(format!("s.{}.run1.{name}.log", Platform::host().folder()))
}

/// The directory of a database that `cargo xtask setup` has installed, copied to where every user reaches it.
fn database(bench: &Bench, name: &str) -> Option<PathBuf> {
    let installed = repository().join(".tools").join(name);
    if !installed.is_dir() {
        assert!(std::env::var_os("CI").is_none(), "CI has {name}: run `cargo xtask setup`");
        eprintln!("SKIPPED: {name} is not installed; run `cargo xtask setup`");
        return None;
    }
    fs::set_permissions(bench.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = bench.directory.path().join(name);
    let copied = std::process::Command::new("cp").arg("-r").args([&installed, &copy]).status().unwrap();
    assert!(copied.success());
    Some(copy)
}

#[test]
fn a_service_with_redis_and_postgresql() {
    if !can_attach() || !cfg!(target_arch = "x86_64") {
        return;
    }
    let sidecars = r#"      redis:
        command: [REDIS/bin/redis-server, --port, 0, --unixsocket, $MEMGATE_TMP/redis/redis.sock, --save, ""]
        env: { LD_LIBRARY_PATH: REDIS/lib/x86_64-linux-gnu }
        ready: { unix: $MEMGATE_TMP/redis/redis.sock }
      postgres:
        command: [sh, -c, "initdb -D data -U postgres -A trust --locale=C --no-sync && exec postgres -D data -p 18192 -k ''"]
        env: { PATH: "POSTGRES/lib/postgresql/15/bin:/usr/bin:/bin", LD_LIBRARY_PATH: POSTGRES/lib/x86_64-linux-gnu }
        user: USER
        ready: { log: "ready to accept connections", timeout: 60s }
        memory_max: 512MiB
    before:
      - { command: [$MEMGATE_SERVICE, -migrate, -postgres, "127.0.0.1:18192"] }
"#;
    let args = ", -redis, $MEMGATE_TMP/redis/redis.sock, -postgres, \"127.0.0.1:18192\"";
    let bench = beside(18191, args, sidecars);
    let (Some(redis), Some(postgres)) = (database(&bench, "redis-7.0.15"), database(&bench, "postgresql-15.18")) else {
        return;
    };
    // PostgreSQL does not run as root, and wants a user with a name.
    let user = if nix::unistd::geteuid().is_root() { "nobody" } else { "USER" };
    let bench = bench
        .with("REDIS", &redis.display().to_string())
        .with("POSTGRES", &postgres.display().to_string())
        .with("user: USER", &format!("user: {user}"))
        .with("runs: 1", "runs: 2");
    let output = bench.run("record", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for file in stdout(&output).lines() {
        let evidence = evidence_file::read(Path::new(file)).unwrap();
        let needed = &evidence.environment.dependencies;
        assert!(needed.starts_with("redis `") && needed.contains(", postgres `sh -c initdb"), "{needed}");
        assert!(needed.ends_with("before `$MEMGATE_SERVICE -migrate -postgres 127.0.0.1:18192`"), "{needed}");
        let measured = evidence.signals.requests.data.measure;
        assert!(measured.succeeded == measured.intended && measured.intended > 100, "{measured:?}");
        // Two databases with their processes would be many times as much.
        let cgroup = evidence.signals.cgroup_memory.data.anon;
        assert!(cgroup.iter().all(|bytes| *bytes < 40 << 20), "{cgroup:?}");
    }
    assert!(lines(&log(&bench, "before-1")).iter().any(|line| line == "notes: the table is made"));
    for (name, words) in [("redis", "Redis is now ready to exit"), ("postgres", "database system is shut down")] {
        let lines = lines(&log(&bench, &format!("sidecar-{name}")));
        assert!(lines.iter().any(|line| line.contains(words)), "{lines:#?}");
    }
}

#[test]
fn sidecars_end_in_the_reverse_order_on_every_way() {
    if !can_attach() {
        return;
    }
    let order = |bench: &Bench| lines(&bench.directory.path().join("order"));
    let bench = |port, before: &str| {
        let bench = beside(port, "", "      SIDECARS\n");
        let path = bench.directory.path().join("order");
        let sidecars = ["one", "two", "three"].map(|name| polite(name, &path)).concat();
        bench.with("      SIDECARS\n", &format!("{sidecars}{before}"))
    };
    let reverse = ["three", "two", "one"];
    let good = bench(18193, "    before: [ { command: [sh, -c, \"echo $MEMGATE_TMP; ls $MEMGATE_TMP\"] } ]\n");
    let output = good.run("record", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(order(&good), reverse);
    let before = lines(&log(&good, "before-1"));
    assert_eq!(before[1..], ["one", "three", "two"]);
    let up = format!("up in {}/two", before[0]);
    assert_eq!(lines(&log(&good, "sidecar-two"))[0], up, "each has its own directory");

    let failed = bench(18193, "    before: [ { command: [sh, -c, \"echo no such table >&2; exit 3\"] } ]\n");
    let output = failed.run("check", &[]);
    let words =
        ["launch:", "failed before the service: it exited with code 3; its output: | no such table", "before-1.log"];
    assert_fails(&output, 4, &words);
    assert_eq!(order(&failed), reverse);

    let ended = bench(18193, "").with("measure: 1s", "measure: 600s");
    let mut running = Running::start(&mut plain(&ended.command("record")));
    running.says("measuring");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.ends().status.code(), Some(130));
    ended.assert_nothing_left();
    assert_eq!(order(&ended), reverse);
}

#[test]
fn what_a_killed_memgate_has_left_is_removed_by_the_next_one() {
    if !can_attach() {
        return;
    }
    let sidecar =
        "      one: { command: [sh, -c, \"touch file; setsid sleep 1000 & echo up; wait\"], ready: { log: up } }\n";
    let bench = beside(18194, "", sidecar).with("measure: 1s", "measure: 600s");
    let mut running = Running::start(&mut plain(&bench.command("record")));
    running.says("measuring");
    running.signal(Signal::SIGKILL);
    running.ends();
    assert_eq!(scratch().len(), 1);
    let bench = bench.with("measure: 600s", "measure: 1s");
    let output = bench.run("record", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("an earlier memgate was killed and left"), "{}", stderr(&output));
}

#[test]
fn a_sidecar_that_fails_is_named_with_its_last_words() {
    if !can_attach() {
        return;
    }
    let case = |sidecars: &str, words: &[&str]| {
        let bench = beside(18195, "", sidecars).with("measure: 1s", "measure: 60s");
        assert_fails(&bench.run("check", &[]), 4, &[&["launch:"], words].concat());
    };
    case(
        "      one: { command: [sh, -c, \"echo waiting; exec sleep 1000\"], ready: { log: up, timeout: 1s } }\n",
        &["the sidecar `one` was not ready in time: at last no line", "| waiting", "sidecar-one.log"],
    );
    case(
        "      one: { command: [sh, -c, \"echo no disk; exit 7\"], ready: { log: up } }\n",
        &["the sidecar `one` ended before it was ready: it exited with code 7; its output: | no disk"],
    );
    case(
        "      one: { command: [sh, -c, \"echo up; sleep 3; echo out of luck; exit 1\"], ready: { log: up } }\n",
        &["the sidecar `one` ended while the service ran: it exited with code 1", "| out of luck"],
    );
    case(
        "      one: { command: [/none/redis], ready: { log: up } }\n",
        &["the sidecar `one` cannot be started: `/none/redis` in "],
    );
    let listen =
        "import socket, time; s = socket.create_server(('127.0.0.1', 18196)); print('up', flush=True); time.sleep(999)";
    case(
        &format!(
            "      one: {{ command: [python3, -c, \"{listen}\"], ready: {{ log: up }} }}\n      \
             two: {{ command: [sleep, 1000], ready: {{ tcp: \"127.0.0.1:18196\" }} }}\n"
        ),
        &["the sidecar `two` is to listen at 127.0.0.1:18196, where the sidecar `one` listens"],
    );
    let _taken = TcpListener::bind("127.0.0.1:18197").unwrap();
    case(
        "      one: { command: [sleep, 1000], ready: { tcp: \"127.0.0.1:18197\" } }\n",
        &["another process listens at 127.0.0.1:18197, where the sidecar `one` is to listen"],
    );
}

#[test]
fn sidecars_have_no_more_rights_than_the_change() {
    if !can_attach() || !nix::unistd::geteuid().is_root() {
        return;
    }
    let say = "id -u; grep NoNewPrivs /proc/self/status; env | sort; echo up; exec sleep 1000";
    let sidecars = format!(
        "      one: {{ command: [sh, -c, \"{say}\"], ready: {{ log: \"^up$\" }}, pass_env: [PASSED], env: {{ SET: here }} }}\n      \
         two: {{ command: [sh, -c, \"{say}\"], ready: {{ log: \"^up$\" }}, user: \"60002:60002\" }}\n    \
         before: [ {{ command: [id, -u], user: \"60002:60002\" }} ]\n"
    );
    let bench = beside(18198, "", &sidecars);
    fs::set_permissions(bench.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let record = |args: &[&str]| {
        let mut command = bench.command("record");
        let output = command.args(args).env("CI_TOKEN", "a token").env("PASSED", "a password").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        ["sidecar-one", "sidecar-two", "before-1"].map(|name| lines(&log(&bench, name)))
    };
    let [one, two, before] = record(&[]);
    assert_eq!([two[0].as_str(), two[1].as_str(), before[0].as_str()], ["60002", "NoNewPrivs:\t1", "60002"]);
    for (line, expected) in [("PASSED=***", true), ("SET=here", true), ("CI_TOKEN=a token", false)] {
        assert_eq!(one.iter().any(|found| found == line), expected, "{line} in {one:?}");
        assert!(!two.iter().any(|found| found == line), "{line} in {two:?}");
    }
    // The command line's user wins.
    let all = record(&["--user", "60003:60003"]);
    for said in &all {
        assert_eq!(said[0], "60003", "{all:?}");
    }
    assert!(all[..2].iter().all(|said| said[1] == "NoNewPrivs:\t1"), "{all:?}");
    bench.assert_nothing_left();
}

#[test]
fn a_standard_input_may_stay_open() {
    if can_attach() {
        let bench = notes(18199, ", -stdin, -start-for, 1s", "log: listening");
        let words = ["exited with code 0 before it was ready", "its standard input is /dev/null", "stdin: open"];
        assert_fails(&bench.run("record", &[]), 4, &words);
        let output = bench.with("      stop", "      stdin: open\n      stop").run("record", &[]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
}

#[test]
fn what_is_passed_on_is_written_nowhere() {
    if !can_attach() {
        return;
    }
    const SECRET: &str = "hunter2 of the database";
    let sidecar = "      one: { command: [sh, -c, \"echo up $PASSWORD; exec sleep 1000\"], pass_env: [PASSWORD], ready: { log: up } }\n";
    let bench = beside(18200, ", -say, PASSWORD", sidecar).with("      stop", "      pass_env: [PASSWORD]\n      stop");
    let run = |bench: &Bench, code| {
        let output = bench.command("check").args(["--format", "json"]).env("PASSWORD", SECRET).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        for text in [stderr(&output), stdout(&output)] {
            assert!(!text.contains("hunter2"), "{text}");
        }
        for file in fs::read_dir(bench.out()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
        {
            let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
            assert!(!text.contains("hunter2"), "{}", file.display());
        }
        bench.assert_nothing_left();
        output
    };
    run(&bench, 3);
    assert!(lines(&log(&bench, "service")).iter().any(|line| line == "notes: PASSWORD=***"));
    assert_eq!(lines(&log(&bench, "sidecar-one")), ["up ***"]);
    // Neither is it where a failure is told, in the message and in the report.
    let failing = bench.with(", -say, PASSWORD", ", -say, PASSWORD, -redis, \"127.0.0.1:1\"");
    let output = run(&failing, 4);
    assert_fails(&output, 4, &["| notes: PASSWORD=***", "connection refused"]);
}
