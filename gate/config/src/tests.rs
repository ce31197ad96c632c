use std::fmt::Write as _;

use memgate_evidence::{
    error::Error,
    plan::{Capture, CommandLoad, Grpc, HttpVersion, Length, ReadyBy, ResultsFormat, Rows, Tls, Transport},
};

use super::*;

const FULL: &str = include_str!("testdata/full.yaml");
const SMALLEST: &str = include_str!("testdata/smallest.yaml");

/// A configuration beside this package's Cargo.toml, where the directory `src` exists.
fn read(text: &str) -> Result<Config> {
    parse(Path::new("memgate.yaml"), text)
}

fn render(error: &Error) -> String {
    assert_eq!(error.exit_code(), 2);
    let mut text = String::new();
    let theme = miette::GraphicalTheme::unicode_nocolor();
    miette::GraphicalReportHandler::new_themed(theme).with_width(110).render_report(&mut text, error).unwrap();
    text
}

fn refusal(text: &str) -> String {
    render(&read(text).unwrap_err())
}

/// The smallest configuration with one text replaced.
fn changed(from: &str, to: &str) -> String {
    assert!(SMALLEST.contains(from), "{from}");
    SMALLEST.replacen(from, to, 1)
}

#[test]
fn a_full_file_is_read() {
    insta::with_settings!({ filters => [(env!("CARGO_MANIFEST_DIR"), "[package]")] }, {
        insta::assert_debug_snapshot!(read(FULL).unwrap());
    });
}

#[test]
fn defaults_are_filled_in() {
    insta::with_settings!({ filters => [(env!("CARGO_MANIFEST_DIR"), "[package]")] }, {
        insta::assert_debug_snapshot!(read(SMALLEST).unwrap());
    });
}

#[test]
fn a_plan_is_made_of_the_configuration() {
    let config = read(FULL).unwrap();
    let plan = config.plan("uaa", Platform::LinuxLoong64, 2, "/bin/uaa".into()).unwrap();
    assert_eq!((plan.service.as_str(), plan.baseline.as_str(), plan.run), ("uaa", "uaa-login", 2));
    assert_eq!((plan.platform, plan.executable.as_path()), (Platform::LinuxLoong64, Path::new("/bin/uaa")));
    assert_eq!((plan.memory_max, plan.stop_timeout_ms, plan.seed), (Some(1400 << 20), 15_000, 7));
    let lengths =
        PhaseLengths { warmup: Length::Ms(5000), measure: Length::Ms(90_000), drain_ms: 0, drain_max_ms: 30_000 };
    assert_eq!(plan.phases, lengths);
    insta::assert_snapshot!(render(&config.plan("uua", Platform::LinuxAmd64, 1, "x".into()).unwrap_err()));
}

#[test]
fn a_phase_may_have_a_number_of_requests() {
    let text = format!("{SMALLEST}    phases: {{ warmup: 2000 requests, measure: \"6000requests\" }}\n");
    let phases = read(&text).unwrap().services["uaa"].phases;
    let [warmup, measure] = [2000, 6000].map(Length::Requests);
    assert_eq!(phases, PhaseLengths { warmup, measure, drain_ms: 10_000, drain_max_ms: 30_000 });
}

#[test]
fn connections_are_as_the_load_says() {
    let transport = |keys: &str| {
        let config = read(&changed("rate:", &format!("{keys}, rate:"))).unwrap();
        let Load::Http(load) = &config.services["uaa"].load else { panic!("{keys}") };
        load.transport.clone()
    };
    let usual = Transport::default();
    assert_eq!(transport("http: 1, keep_alive: true"), usual);
    let streams = |streams| HttpVersion::Http2 { streams };
    assert_eq!(transport("http: 2"), Transport { http: streams(16), ..usual.clone() });
    assert_eq!(
        transport("http: 2, keep_alive: false"),
        Transport { http: streams(1), keep_alive: false, ..usual.clone() }
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    for (tls, expected) in [("insecure: true", Tls::Insecure), ("ca: Cargo.toml", Tls::Ca(file))] {
        let text = with_tls(&format!("tls: {{ {tls} }}"));
        let Load::Http(load) = &read(&text).unwrap().services["uaa"].load else { panic!("{text}") };
        assert_eq!(load.transport, Transport { tls: Some(expected), ..usual.clone() });
    }
    // The URL of a request to a socket needs no port.
    for name in ["run/x.sock", "@app", "$MEMGATE_TMP/x.sock"] {
        let text = changed("get: \"http://127.0.0.1:8080/\"", "get: http://localhost/");
        let text = text.replacen("rate:", &format!("unix: \"{name}\", rate:"), 1);
        let Load::Http(load) = &read(&text).unwrap().services["uaa"].load else { panic!("{text}") };
        assert_eq!(load.transport, Transport { unix: Some(name.to_owned()), ..usual.clone() });
    }
}

/// The smallest configuration with these keys of a load over TLS.
fn with_tls(keys: &str) -> String {
    changed("rate:", &format!("{keys}, rate:")).replacen("get: \"http:", "get: \"https:", 1)
}

/// A port that is none must not become the usual one of the scheme.
#[test]
fn a_port_that_is_none_is_refused_everywhere() {
    let load = |url: &str| changed("get: \"http://127.0.0.1:8080/\"", &format!("get: \"{url}\""));
    for port in [":99999", ":65536", ":", ":0", ":+80", ":8o"] {
        for host in ["127.0.0.1", "localhost", "[::1]"] {
            let url = format!("http://{host}{port}/");
            let over_a_socket = load(&url).replacen("rate:", "unix: x.sock, rate:", 1);
            let by_http = ready(&format!("http: \"{url}\""));
            let by_tcp = ready(&format!("tcp: \"{host}{port}\""));
            for text in [load(&url), over_a_socket, by_http, by_tcp] {
                let refused = read(&text).unwrap_err().to_string();
                assert!(refused.contains(&format!("{host}{port}")), "{refused}");
            }
        }
    }
    read(&load("http://[::1]:65535/")).unwrap();
}

#[test]
fn variables_and_the_user_are_read() {
    let text = changed(
        "rate: 500/s, requests: [ { get: \"http://127.0.0.1:8080/\" } ]",
        "command: [k6], env: { A: 1 }, pass_env: [B]",
    );
    let text = text.replacen("ready:", "user: \"www-data:1000\", pass_env: [C], ready:", 1);
    let text = text.replacen("dir: src", "pass_env: [D], dir: src", 1);
    let config = read(&text).unwrap();
    let service = &config.services["uaa"];
    let command =
        CommandLoad { words: vec!["k6".to_owned()], env: [("A".to_owned(), "1".to_owned())].into(), results: None };
    assert_eq!(service.load, Load::Command(command));
    assert_eq!(
        (service.run.user.as_deref(), &service.run.pass_env[..]),
        (Some("www-data:1000"), &["C".to_owned()][..])
    );
    assert_eq!(service.load_pass_env, ["B"]);
    assert!(matches!(&service.executable, Executable::Build(build) if build.pass_env == ["D"]));
}

#[test]
fn what_is_measured_may_be_started_by_another_command() {
    let read =
        |keys: &str| read(&changed("ready:", &format!("{keys}, ready:"))).unwrap().services["uaa"].run.watch.clone();
    let watch = |words: &[&str], argument: Option<&str>, execution| {
        let command = words.iter().map(|&word| word.to_owned()).collect();
        Some(Watch { command, argument: argument.map(str::to_owned), execution })
    };
    assert_eq!(read("env: { A: b }"), None);
    assert_eq!(read("command: [./start.sh, -v]"), watch(&["./start.sh", "-v"], None, 1));
    assert_eq!(read("watch: { execution: 2 }, args: [x]"), watch(&[], None, 2));
    assert_eq!(read("command: [s], watch: { argument: worker }"), watch(&["s"], Some("worker"), 1));
}

#[test]
fn readiness_has_one_of_several_kinds() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    for (text, by) in [
        ("http: \"http://127.0.0.1:8080/\"", ReadyBy::Http("http://127.0.0.1:8080/".to_owned())),
        ("tcp: \"127.0.0.1:5432\"", ReadyBy::Tcp("127.0.0.1:5432".to_owned())),
        ("tcp: \"[::1]:5432\"", ReadyBy::Tcp("[::1]:5432".to_owned())),
        ("unix: run/app.sock", ReadyBy::Unix("run/app.sock".to_owned())),
        ("unix: \"@app\"", ReadyBy::Unix("@app".to_owned())),
        ("log: \"^listening on .*:\\\\d+$\"", ReadyBy::Log("^listening on .*:\\d+$".to_owned())),
        ("command: [pg_isready, -p, 5432]", ReadyBy::Command(words(&["pg_isready", "-p", "5432"]))),
        ("notify: true", ReadyBy::Notify),
    ] {
        let config = read(&ready(text)).unwrap();
        assert_eq!(config.services["uaa"].run.ready, Ready { by, timeout_ms: 30_000 }, "{text}");
    }
}

#[test]
fn a_standard_input_may_stay_open() {
    let config = read(&changed("ready:", "stdin: open, ready:")).unwrap();
    assert_eq!(config.services["uaa"].run.stdin, Stdin::Open);
    assert_eq!(config.plan("uaa", Platform::LinuxAmd64, 1, "x".into()).unwrap().stdin, Stdin::Open);
    assert_eq!(read(SMALLEST).unwrap().services["uaa"].run.stdin, Stdin::Empty);
}

/// The smallest configuration with another kind of readiness.
fn ready(text: &str) -> String {
    changed("http: \"http://127.0.0.1:8080/\"", text)
}

/// The smallest configuration with a request of this path, with these keys.
fn get(path: &str, keys: &str) -> String {
    changed("get: \"http://127.0.0.1:8080/\"", &format!("{keys}get: \"http://127.0.0.1:8080{path}\""))
}

/// The smallest configuration with a file of rows, of which the request has a value.
fn with_rows(file: &str) -> String {
    get("/${rows.id}", "").replacen("rate:", &format!("rows: src/testdata/{file}, rate:"), 1)
}

#[test]
fn rows_are_read() {
    let rows = |file: &str| {
        let config = read(&with_rows(file)).unwrap();
        let Load::Http(load) = &config.services["uaa"].load else { panic!("{file}") };
        load.rows.clone().unwrap()
    };
    let values = |second: &str| [["1", "ann"], ["2", second]].map(|row| row.map(str::to_owned).to_vec()).to_vec();
    let columns = vec!["id".to_owned(), "name".to_owned()];
    let expected = Rows { columns, values: values("bob, the second"), count: 2 };
    assert_eq!(rows("users.csv"), expected);
    assert_eq!(rows("users.jsonl"), Rows { values: values("bob"), ..expected });
}

/// What root may read and the owner of the checkout may not goes to no service.
#[test]
fn rows_do_not_come_through_a_link_that_leads_elsewhere() {
    let [here, elsewhere] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let secret = elsewhere.path().join("secret.csv");
    std::fs::write(&secret, "id\n1\n").unwrap();
    std::os::unix::fs::symlink(&secret, here.path().join("users.csv")).unwrap();
    let text = with_rows("users.csv").replacen("src/testdata/", "", 1).replacen("dir: src", "dir: .", 1);
    let error = parse(&here.path().join("memgate.yaml"), &text).unwrap_err();
    assert!(error.to_string().contains("`users.csv` does not lie in the directory of this file"), "{error}");
    std::fs::remove_file(here.path().join("users.csv")).unwrap();
    std::fs::write(here.path().join("users.csv"), "id\n1\n").unwrap();
    parse(&here.path().join("memgate.yaml"), &text).unwrap();
}

#[test]
fn a_value_may_need_another() {
    let text = r#"{ post: "http://127.0.0.1:8080/login", capture: { token: { json: /token } } },
        { post: "http://127.0.0.1:8080/order", body: "${token}", capture: { order: { header: Location } } },
        { get: "http://127.0.0.1:8080/order/${order}", headers: { A: "$${x} ${token}" } }"#;
    let text = changed("{ get: \"http://127.0.0.1:8080/\" }", text);
    let Load::Http(load) = &read(&text).unwrap().services["uaa"].load else { panic!("{text}") };
    assert_eq!(load.requests[1].capture, [("order".to_owned(), Capture::Header("Location".to_owned()))].into());
    // Whatever the order in the file.
    let circle = text.replacen("8080/login", "8080/login/${order}", 1);
    assert!(refusal(&circle).contains("needs `order`"), "{circle}");
}

/// The smallest configuration with a gRPC request of this method, with these keys.
fn grpc(method: &str, keys: &str) -> String {
    let text = changed("rate:", "http: 2, descriptors: src/testdata/echo.pb, rate:");
    text.replacen("get: \"http://127.0.0.1:8080/\"", &format!("grpc: \"http://127.0.0.1:8080/{method}\"{keys}"), 1)
}

#[test]
fn messages_of_grpc_are_encoded() {
    let message = |text: &str| {
        let config = read(text).unwrap();
        let Load::Http(load) = &config.services["uaa"].load else { panic!("{text}") };
        assert_eq!((load.requests[0].method.as_str(), load.requests[0].body.as_str()), ("POST", ""));
        load.requests[0].grpc.clone().unwrap()
    };
    let json = message(&grpc("memgate.Echo/Say", ", message: { json: '{\"text\": \"ann\", \"times\": 2}' }"));
    assert_eq!(json, Grpc { message: b"\x0a\x03ann\x10\x02".to_vec(), expect: vec![] });
    let empty = message(&grpc("memgate.Echo/Say", ", expect: [NOT_FOUND, OK]"));
    assert_eq!(empty, Grpc { message: vec![], expect: vec![5, 0] });
    // Without descriptors nothing is known of the method.
    let bytes = grpc("p.S/M", ", message: { base64: CgNhbm4= }").replacen("descriptors: src/testdata/echo.pb, ", "", 1);
    assert_eq!(message(&bytes).message, b"\x0a\x03ann");
}

#[test]
fn the_results_of_a_load_command_are_named_from_where_it_runs() {
    let text = changed(
        "rate: 500/s, requests: [ { get: \"http://127.0.0.1:8080/\" } ]",
        "command: [k6], results: { format: k6, file: out/results.json }",
    );
    let config = read(&text).unwrap();
    let Load::Command(command) = &config.services["uaa"].load else { panic!("{config:?}") };
    let results = command.results.as_ref().unwrap();
    assert_eq!(results.format, ResultsFormat::K6);
    assert_eq!(results.file, std::path::Path::new("out/results.json"), "it moves with the working directory");
}

/// The smallest configuration with these sidecars.
fn with_sidecars(text: &str) -> String {
    format!("{SMALLEST}    sidecars:\n{text}")
}

#[test]
fn sidecars_keep_the_order_in_which_they_are_written() {
    let text = with_sidecars(
        r#"      redis: { command: [redis-server, --port, 6379], ready: { tcp: "127.0.0.1:6379" } }
      db:
        command: [sh, -c, "exec postgres -D data"]
        env: { PGPORT: 5432 }
        pass_env: [PGPASSWORD]
        directory: src
        user: postgres
        ready: { command: [pg_isready], timeout: 1min }
        memory_max: 64MiB
        stop_timeout: 1s
      cache: { command: [memcached], ready: { log: up } }
    before:
      - { command: [$MEMGATE_SERVICE, migrate], env: { A: b }, pass_env: [C], directory: src, user: nobody, timeout: 1s }
      - command: [seed]
"#,
    );
    let config = read(&text).unwrap();
    let service = &config.services["uaa"];
    let names: Vec<_> = service.sidecars.iter().map(|sidecar| sidecar.name.as_str()).collect();
    assert_eq!(names, ["redis", "db", "cache"]);
    insta::with_settings!({ filters => [(env!("CARGO_MANIFEST_DIR"), "[package]")] }, {
        insta::assert_debug_snapshot!((&service.sidecars[1..], &service.before));
    });
    let plan = config.plan("uaa", Platform::LinuxAmd64, 1, "/bin/uaa".into()).unwrap();
    assert_eq!(
        plan.dependencies(),
        "redis `redis-server --port 6379`, db `sh -c exec postgres -D data`, cache `memcached`, \
         before `$MEMGATE_SERVICE migrate`, before `seed`"
    );
    assert!(plan.sidecars[0].directory.is_none() && plan.sidecars[0].stop_timeout_ms == 10_000);
    assert_eq!(plan.before[1].timeout_ms, 300_000);
}

/// Every wrong file has one mistake, and the message must lead to it.
macro_rules! refused {
    ($($name:ident: $text:expr;)+) => {
        $(#[test] fn $name() { insta::assert_snapshot!(stringify!($name), refusal(&$text)); })+
    };
}

refused! {
    unknown_key: changed("load:", "laod:");
    unknown_key_in_run: changed("ready:", "retry: 3, ready:");
    unknown_key_beside_chinese: changed("version: 1", "version: 1 # 第一版\n\"服务\": {}");
    unknown_platform: format!("{SMALLEST}platforms: {{ linux/riscv64: {{ runner: qemu }} }}\n");
    unknown_runner: format!("{SMALLEST}platforms: {{ linux/arm64: {{ runner: docker }} }}\n");
    unknown_method: changed("get:", "head:");
    unknown_version: changed("version: 1", "version: 2");
    no_version: changed("version: 1\n", "");
    no_kind_of_readiness: ready("timeout: 5s");
    two_kinds_of_readiness: ready("tcp: \"127.0.0.1:1\", log: ready");
    unknown_kind_of_readiness: ready("grpc: \"127.0.0.1:1\"");
    ready_at_no_port: ready("tcp: localhost");
    ready_at_port_0: ready("tcp: \"localhost:0\"");
    ready_at_a_url: ready("tcp: \"http://localhost:1\"");
    socket_with_a_long_name: ready(&format!("unix: \"@{}\"", "a".repeat(108)));
    socket_of_the_load_without_a_name: changed("rate:", "unix: \"@\", rate:");
    socket_without_a_name: ready("unix: \"@\"");
    pattern_that_is_none: ready("log: \"(listening\"");
    pattern_of_nothing: ready("log: \"\"");
    readiness_by_no_command: ready("command: []");
    standard_input_that_is_not_open: changed("ready:", "stdin: /dev/tty, ready:");
    notify_that_is_false: ready("notify: false");
    sidecar_without_a_command: with_sidecars("      redis: { command: [], ready: { log: up } }\n");
    sidecar_that_is_never_ready: with_sidecars("      redis: { command: [redis-server] }\n");
    sidecar_with_a_wrong_name: with_sidecars("      Redis_1: { command: [redis-server], ready: { log: up } }\n");
    sidecar_with_an_unknown_key: with_sidecars("      redis: { command: [x], ready: { log: up }, port: 1 }\n");
    sidecars_as_a_list: format!("{SMALLEST}    sidecars: [redis]\n");
    two_sidecars_at_one_port: with_sidecars(
        "      a: { command: [a], ready: { tcp: \"127.0.0.1:5\" } }\n      b: { command: [b], ready: { http: \"http://localhost:5/\" } }\n"
    );
    two_sidecars_of_one_name: with_sidecars(
        "      a: { command: [a], ready: { log: up } }\n      a: { command: [b], ready: { log: up } }\n"
    );
    sidecar_at_the_socket_of_the_load: with_sidecars("      a: { command: [a], ready: { unix: \"@app\" } }\n").replacen("rate:", "unix: \"@app\", rate:", 1);
    sidecar_at_the_services_port: with_sidecars("      a: { command: [a], ready: { tcp: \"127.0.0.1:8080\" } }\n");
    before_without_a_command: format!("{SMALLEST}    before: [ {{ timeout: 1s }} ]\n");
    before_that_names_no_program: format!("{SMALLEST}    before: [ {{ command: [migrate] }}, {{ command: [\"\"] }} ]\n");
    no_unit: changed("rate: 500/s", "rate: 500");
    no_unit_of_a_phase: format!("{SMALLEST}    phases:\n      measure: 60\n");
    wrong_unit: changed("rate: 500/s", "rate: 500MB");
    wrong_unit_of_a_size: changed("ready:", "memory_max: 30s, ready:");
    too_short_a_phase: format!("{SMALLEST}    phases: {{ measure: 500ms }}\n");
    too_few_requests_for_a_phase: format!("{SMALLEST}    phases: {{ measure: 499 requests }}\n");
    no_number_of_requests: format!("{SMALLEST}    phases: {{ measure: 1.5 requests }}\n");
    requests_of_a_load_command: format!(
        "{}    phases: {{ warmup: 5s, measure: 6000 requests }}\n",
        changed("rate: 500/s, requests: [ { get: \"http://127.0.0.1:8080/\" } ]", "command: [k6]")
    );
    results_of_no_format: changed(
        "rate: 500/s, requests: [ { get: \"http://127.0.0.1:8080/\" } ]",
        "command: [locust], results: { format: locust, file: x }"
    );
    results_of_a_whole_run: changed(
        "rate: 500/s, requests: [ { get: \"http://127.0.0.1:8080/\" } ]",
        "command: [oha], results: { format: oha, file: x }"
    );
    results_without_a_file: changed(
        "rate: 500/s, requests: [ { get: \"http://127.0.0.1:8080/\" } ]",
        "command: [k6], results: { format: k6 }"
    );
    results_without_a_command: changed("rate:", "results: { format: k6, file: x }, rate:");
    fraction_of_a_millisecond: format!("{SMALLEST}    phases: {{ drain: 1500us }}\n");
    too_small_a_size: changed("ready:", "memory_max: 4KiB, ready:");
    rate_of_nothing: changed("rate: 500/s", "rate: 0/s");
    no_weight: changed("get:", "weight: 0, get:");
    too_many_connections: changed("rate:", "connections: 20000, rate:");
    too_many_requests_at_a_time: changed("rate:", "http: 2, connections: 10000, rate:");
    negative_runs: format!("{SMALLEST}    runs: -1\n");
    duplicate_key: changed("version: 1", "version: 1\nbaselines: a\nbaselines: b");
    duplicate_key_of_a_flow_map: changed("rate: 500/s", "rate: 500/s, rate: 600/s");
    duplicate_variable: changed("ready:", "env: { GOGC: 100, \"GOGC\": 200 }, ready:");
    duplicate_service: format!("{SMALLEST}  uaa: {{}}\n");
    duplicate_header_but_for_case: changed("get:", "headers: { Accept: a, accept: b }, get:");
    duplicate_key_behind_an_alias: changed("version: 1", "version: 1\nx: &x { a: 1, a: 2 }\ny: *x");
    tab: changed("    run:", "\trun:");
    empty: "";
    only_comments: "# to do\n\n---\n";
    no_services: "version: 1\nservices: {}\n";
    services_without_value: "version: 1\nservices:\n";
    not_a_map: "[]\n";
    wrong_type: changed("uaa:", "uaa: 5\n  other:");
    wrong_type_of_a_list: changed("ready:", "args: -listen, ready:");
    build_and_binary: changed("build:", "binary: { linux/amd64: uaa }\n    build:");
    neither_build_nor_binary: changed("    build: { dir: src, package: ./cmd/uaa }\n", "");
    binary_of_no_platform: changed("build: { dir: src, package: ./cmd/uaa }", "binary: {}");
    build_without_directory: changed("dir: src", "dir: CARGO.toml/none").replace("CARGO", "Cargo");
    package_that_is_an_option: changed("./cmd/uaa", "-toolexec=x");
    no_requests: changed("[ { get: \"http://127.0.0.1:8080/\" } ]", "[]");
    no_rate: changed("rate: 500/s, ", "");
    request_without_url: changed("get: \"http://127.0.0.1:8080/\"", "body: x");
    request_with_two_methods: changed("get:", "post: \"http://127.0.0.1:8080/\", get:");
    rate_beside_a_command: changed("requests: [ { get: \"http://127.0.0.1:8080/\" } ]", "command: [k6]");
    variables_without_a_command: changed("rate:", "env: { A: b }, rate:");
    user_with_two_groups: changed("ready:", "user: \"a:b:c\", ready:");
    command_beside_arguments: changed("ready:", "command: [./start.sh], args: [x], ready:");
    command_to_start_of_nothing: changed("ready:", "command: [\"\"], ready:");
    watch_that_says_nothing: changed("ready:", "watch: {}, ready:");
    execution_of_zero: changed("ready:", "watch: { execution: 0 }, ready:");
    variable_with_a_value: changed("ready:", "pass_env: [A=b], ready:");
    command_of_nothing: changed("rate: 500/s, requests: [ { get: \"http://127.0.0.1:8080/\" } ]", "command: []");
    https: changed("get: \"http:", "get: \"https:");
    https_of_readiness: changed("ready: { http: \"http:", "ready: { http: \"https:");
    tls_without_https: changed("rate:", "tls: { insecure: true }, rate:");
    tls_of_nothing: changed("rate:", "tls: { insecure: false }, rate:");
    tls_of_two_minds: changed("rate:", "tls: { insecure: true, ca: Cargo.toml }, rate:");
    tls_without_a_file: changed("rate:", "tls: { ca: ca.pem }, rate:");
    port_out_of_range: changed("get: \"http://127.0.0.1:8080/\"", "get: \"http://127.0.0.1:80800/\"");
    port_out_of_range_of_readiness: ready("http: \"http://127.0.0.1:80800/\"");
    host_with_values_in_http_2: get("/", "headers: { host: \"a-${counter}.example\" }, ").replacen("rate:", "http: 2, rate:", 1);
    streams_of_http_1: changed("rate:", "streams: 4, rate:");
    streams_without_connections: changed("rate:", "http: 2, keep_alive: false, streams: 4, rate:");
    no_switch: changed("rate:", "keep_alive: 1s, rate:");
    http_3: changed("rate:", "http: 3, rate:");
    grpc_in_http_1: changed("get: \"http://127.0.0.1:8080/\"", "grpc: \"http://127.0.0.1:8080/p.S/M\"");
    grpc_without_a_method: grpc("S", "");
    grpc_with_a_body: grpc("memgate.Echo/Say", ", body: x");
    grpc_of_a_status_of_http: grpc("memgate.Echo/Say", ", expect: [OK, 200]");
    grpc_of_an_unknown_service: grpc("memgate.Ecco/Say", "");
    grpc_of_an_unknown_method: grpc("memgate.Echo/Sya", "");
    grpc_of_a_stream: grpc("memgate.Echo/Listen", "");
    grpc_message_with_an_unknown_field: grpc("memgate.Echo/Say", ", message: { json: '{\"txet\": \"a\"}' }");
    grpc_message_that_is_no_json: grpc("memgate.Echo/Say", ", message: { json: '{} {}' }");
    grpc_message_in_no_base64: grpc("memgate.Echo/Say", ", message: { base64: CgNhbm4 }");
    grpc_message_in_no_hex: grpc("memgate.Echo/Say", ", message: { hex: 0a0 }");
    grpc_message_of_nothing: grpc("memgate.Echo/Say", ", message: {}");
    grpc_message_of_two_kinds: grpc("memgate.Echo/Say", ", message: { hex: 0a, base64: Cg== }");
    grpc_message_without_descriptors: grpc("p.S/M", ", message: { json: '{}' }").replacen("descriptors: src/testdata/echo.pb, ", "", 1);
    descriptors_that_are_missing: grpc("p.S/M", "").replacen("echo.pb", "none.pb", 1);
    descriptors_that_are_none: grpc("p.S/M", "").replacen("src/testdata/echo.pb", "Cargo.toml", 1);
    descriptors_without_grpc: changed("rate:", "descriptors: src/testdata/echo.pb, rate:");
    message_without_grpc: changed("get:", "message: { hex: 00 }, get:");
    status_of_grpc_without_it: changed("get:", "expect: [200, NOT_FOUND], get:");
    no_status: changed("get:", "expect: [600], get:");
    value_without_an_end: get("/${counter", "");
    value_without_a_name: get("/${a-b}", "");
    value_that_nothing_sets: get("/", "body: \"x ${token}\", ");
    value_of_a_header_that_nothing_sets: get("/", "headers: { Accept: a, X: \"${token}\" }, ");
    value_of_rows_without_rows: get("/${rows.id}", "");
    value_of_an_unknown_column: get("/${rows.nmae}", "").replacen("rate:", "rows: src/testdata/users.csv, rate:", 1);
    value_that_needs_itself: get("/${token}", "capture: { token: { json: /token } }, ");
    capture_of_nothing: get("/", "capture: { token: {} }, ");
    capture_of_a_reserved_name: get("/", "capture: { rows: { json: /rows } }, ");
    capture_of_no_pointer: get("/", "capture: { token: { json: token } }, ");
    capture_of_json_in_grpc: grpc("memgate.Echo/Say", ", capture: { token: { json: /token } }");
    rows_that_are_missing: changed("rate:", "rows: none.csv, rate:");
    rows_of_another_directory: changed("rate:", "rows: ../testing/Cargo.toml, rate:");
    rows_of_another_kind: changed("rate:", "rows: Cargo.toml, rate:");
    rows_in_vain: changed("rate:", "rows: src/testdata/users.csv, rate:");
    rows_with_a_column_twice: with_rows("twice.csv");
    rows_of_nothing: changed("rate:", "rows: src/testdata/empty.csv, rate:");
    rows_of_csv_that_lack_a_column: changed("rate:", "rows: src/testdata/short.csv, rate:");
    rows_of_json_that_lack_a_column: changed("rate:", "rows: src/testdata/short.jsonl, rate:");
    transport_beside_a_command: changed("rate: 500/s, requests: [ { get: \"http://127.0.0.1:8080/\" } ]", "unix: x, command: [k6]");
    url_without_port: changed("get: \"http://127.0.0.1:8080/\"", "get: http://localhost/");
    url_without_scheme: changed("get: \"http://127.0.0.1:8080/\"", "get: localhost:8080/x");
    name_with_a_slash: changed("uaa:", "../uaa:");
    baseline_with_a_slash: changed("build:", "baseline: ../../x\n    build:");
    header_with_a_line_break: changed("get:", "headers: { X: \"a\\nb\" }, get:");
    variable_without_a_name: changed("ready:", "env: { \"\": x }, ready:");
    nul: changed("ready:", "args: [\"a\\0b\"], ready:");
    control_character: changed("./cmd/uaa", "./cmd\u{7}/uaa");
    custom_tag: changed("./cmd/uaa", "!env PACKAGE");
    merge_key: changed("ready:", "<<: { args: [] }, ready:");
    unknown_anchor: changed("./cmd/uaa", "*package");
    several_documents: format!("# first\n---\n{SMALLEST}---\n{SMALLEST}");
    cut_off: SMALLEST.split_at(SMALLEST.len() - 10).0;
    cut_off_in_a_list: SMALLEST.split("{ get").next().unwrap();
}

/// Numbers that a key cannot have: each key with a value that is right, and what is refused there.
#[test]
fn numbers_that_cannot_be_are_refused_with_their_key() {
    const NO_DURATION: &[&str] = &["-5s", "0.5", "1e3s", ".inf", ".nan", "5MB", "9999999999999h", "\"\""];
    const NO_COUNT: &[&str] =
        &["0", "-1", "1.5", "1e3", ".inf", ".nan", "99999999999999999999999", "2s", "\"\"", "many"];
    const NO_SIZE: &[&str] = &["0B", "-1MiB", "5", "5s", ".inf", ".nan", "1e9MiB", "9999999999999TB", "1.3B", "\"\""];
    const NO_RATE: &[&str] = &["0/s", "-5/s", "5", "5s", "5MB/s", ".inf", ".nan", "1e3/s", "1000001/s", "\"\""];
    let service = |key: &str| format!("{SMALLEST}    {key}\n");
    let in_run = |keys: &str| changed("ready:", &format!("{keys}, ready:"));
    let in_load = |keys: &str| changed("rate: 500/s", &format!("rate: 500/s, {keys}"));
    let platform = |keys: &str| format!("{SMALLEST}platforms: {{ linux/arm64: {{ {keys} }} }}\n");
    type Key<'a> = (&'a str, &'a str, &'a dyn Fn(&str) -> String, &'a [&'a str]);
    let keys: [Key<'_>; 19] = [
        ("services.uaa.runs", "20", &|value| service(&format!("runs: {value}")), NO_COUNT),
        ("services.uaa.max_runs", "20", &|value| service(&format!("max_runs: {value}")), NO_COUNT),
        ("services.uaa.phases.warmup", "0s", &|value| service(&format!("phases: {{ warmup: {value} }}")), NO_DURATION),
        (
            "services.uaa.phases.measure",
            "1s",
            &|value| service(&format!("phases: {{ measure: {value} }}")),
            NO_DURATION,
        ),
        (
            "services.uaa.phases.measure",
            "500 requests",
            &|value| service(&format!("phases: {{ measure: {value} }}")),
            &["0s", "0 requests", "-1 requests", "1 requests", "1e9 requests", "99999999999999999999 requests"],
        ),
        ("services.uaa.phases.drain", "0s", &|value| service(&format!("phases: {{ drain: {value} }}")), NO_DURATION),
        (
            "services.uaa.phases.drain_max",
            "0s",
            &|value| service(&format!("phases: {{ drain_max: {value} }}")),
            NO_DURATION,
        ),
        ("services.uaa.run.memory_max", "1MiB", &|value| in_run(&format!("memory_max: {value}")), NO_SIZE),
        ("services.uaa.run.stop_timeout", "1ms", &|value| in_run(&format!("stop_timeout: {value}")), NO_DURATION),
        ("services.uaa.run.stop_timeout", "1ms", &|value| in_run(&format!("stop_timeout: {value}")), &["0s"]),
        ("services.uaa.load.rate", "1/s", &|value| changed("rate: 500/s", &format!("rate: {value}")), NO_RATE),
        ("services.uaa.load.connections", "1", &|value| in_load(&format!("connections: {value}")), NO_COUNT),
        ("services.uaa.load.streams", "1", &|value| in_load(&format!("http: 2, streams: {value}")), NO_COUNT),
        ("services.uaa.load.http", "1", &|value| in_load(&format!("http: {value}")), NO_COUNT),
        ("services.uaa.load.timeout", "1ms", &|value| in_load(&format!("timeout: {value}")), NO_DURATION),
        ("services.uaa.load.timeout", "1ms", &|value| in_load(&format!("timeout: {value}")), &["0s"]),
        ("platforms.linux/arm64.cpus", "1", &|value| platform(&format!("cpus: {value}")), NO_COUNT),
        ("platforms.linux/arm64.memory", "1MiB", &|value| platform(&format!("memory: {value}")), NO_SIZE),
        ("platforms.linux/arm64.page_size", "4KiB", &|value| platform(&format!("page_size: {value}")), NO_SIZE),
    ];
    for (key, right, file, wrong) in keys {
        read(&file(right)).unwrap_or_else(|error| panic!("{key}: {right}: {}", render(&error)));
        for value in wrong {
            let Err(error) = read(&file(value)) else { panic!("{key}: {value} is accepted") };
            let message = error.to_string();
            assert!(message.starts_with("memgate.yaml:") && message.contains(key), "{key}: {value}: {message}");
            let Error::Input(error) = error else { panic!("{key}") };
            assert!(error.help.is_some_and(|help| help.starts_with("write ")), "{key}: {value}: what to do");
        }
    }
}

#[test]
fn a_windows_file_with_byte_order_mark_is_read() {
    let text = format!("\u{feff}{}", FULL.replace('\n', "\r\n"));
    assert_eq!(read(&text).unwrap(), read(FULL).unwrap());
    insta::assert_snapshot!(refusal(&text.replace("measure: 1m30s", "measure: 90")));
}

#[test]
fn aliases_are_read() {
    let text = changed(
        "ready: { http: \"http://127.0.0.1:8080/\" }",
        "args: [&x a, *x], env: { A: *x }, ready: { http: \"http://127.0.0.1:8080/\" }",
    );
    let config = read(&text).unwrap();
    assert_eq!(config.services["uaa"].run.args, ["a", "a"]);
    assert_eq!(config.services["uaa"].run.env["A"], "a");
}

/// None of these may use the time or the stack that they ask for. Without the structure checks some take minutes.
#[test]
fn floods_are_refused_at_once() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        writeln!(laughs, "a{level}: &a{level} [{}]", vec![format!("*a{}", level - 1); 10].join(", ")).unwrap();
    }
    let quadratic = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(200_000), "*a,".repeat(100_000));
    for (name, text) in [
        ("brackets", "[".repeat(900_000)),
        ("brackets on lines", "[\n".repeat(450_000)),
        ("maps", "{a: ".repeat(225_000)),
        ("closed brackets", format!("{}{}", "[".repeat(450_000), "]".repeat(450_000))),
        ("brackets under the limit", format!("{}{}", "[".repeat(127), "[a: b],".repeat(120_000))),
        ("sequences", "- ".repeat(450_000)),
        ("complex keys", "? ".repeat(450_000)),
        ("keys", "a: ".repeat(300_000)),
        ("one long string", "a".repeat(1_000_000)),
        ("one long key", format!("{}: 1\n", "a".repeat(1_000_000))),
        ("one long key with a value", format!("? {}\n: {{ a: 1,\n  a: 2 }}\n", "a".repeat(1_000_000))),
        ("billion laughs", laughs),
        ("quadratic laughs", quadratic),
        ("self-reference", "a: &a [*a, *a, *a]\n".to_owned()),
        ("anchors", format!("a: {}", "&a ".repeat(300_000))),
        ("tags", format!("a: {}", "!a ".repeat(300_000))),
    ] {
        let message = refusal(&text);
        assert!(message.contains("memgate.yaml"), "{name}: {message}");
        assert!(message.len() < 3000, "{name}: a message of {} bytes", message.len());
    }
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("memgate.yaml");
    let refusal_of_file = || {
        let text = render(&load(&path).unwrap_err());
        // The directory's name is random, and its length decides where lines break.
        text.replace(directory.path().to_str().unwrap(), "[dir]").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    insta::assert_snapshot!("missing_file", refusal_of_file());
    std::fs::create_dir(&path).unwrap();
    insta::assert_snapshot!("a_directory", refusal_of_file());
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, b"version: 1\nservices: { \xff\xfe: 1 }\n").unwrap();
    insta::assert_snapshot!("not_utf8", refusal_of_file());
    std::fs::write(&path, "[".repeat(10_000_000)).unwrap();
    insta::assert_snapshot!("ten_megabytes", refusal_of_file());
    std::fs::write(&path, changed("dir: src", "dir: .")).unwrap();
    let config = load(&path).unwrap();
    assert_eq!(config.baselines, directory.path().join("baselines"));
    assert_eq!(config.services["uaa"].run.directory, directory.path());
    assert_eq!(load(Path::new("/dev/zero")).unwrap_err().to_string(), "/dev/zero: is not a regular file");
}

/// The place of each map's keys in the schema, and a file with an unknown key there.
#[test]
fn the_schema_knows_the_keys_that_are_accepted() {
    let schema = schema();
    for (pointer, text) in [
        ("", changed("version", "zzz: 1\nversion")),
        ("/$defs/Service", changed("build:", "zzz: 1\n    build:")),
        ("/$defs/Build", changed("dir:", "zzz: 1, dir:")),
        ("/$defs/Run", changed("ready:", "zzz: 1, ready:")),
        ("/$defs/Ready", changed("http:", "zzz: 1, http:")),
        ("/$defs/Load", changed("rate:", "zzz: 1, rate:")),
        ("/$defs/Request", changed("get:", "zzz: 1, get:")),
        ("/$defs/Capture", get("/", "capture: { x: { zzz: 1 } }, ")),
        ("/$defs/Message", grpc("p.S/M", ", message: { zzz: 1 }")),
        ("/$defs/Tls", changed("rate:", "tls: { zzz: 1 }, rate:")),
        ("/$defs/Phases", format!("{SMALLEST}    phases: {{ zzz: 1 }}\n")),
        ("/properties/platforms", format!("{SMALLEST}platforms: {{ zzz: 1 }}\n")),
        ("/$defs/Platforms", format!("{SMALLEST}platforms: {{ linux/amd64: {{ zzz: 1 }} }}\n")),
    ] {
        let Error::Input(error) = read(&text).unwrap_err() else { panic!("{pointer}") };
        let help = error.help.unwrap();
        let mut accepted: Vec<&str> = help.rsplit_once("allowed here: ").unwrap().1.split(", ").collect();
        accepted.sort_unstable();
        let object = schema.pointer(pointer).unwrap();
        let known: Vec<&String> = object["properties"].as_object().unwrap().keys().collect();
        assert_eq!(known, accepted, "{pointer}");
        assert_eq!(object["additionalProperties"], false, "{pointer}");
    }
    insta::assert_json_snapshot!(schema);
}

#[test]
fn the_schema_knows_every_key_of_the_example() {
    let schema = schema();
    let example: serde_json::Value = serde_yaml::from_str(FULL).unwrap();
    known(&schema, &schema, &example, "");
}

/// Fails if the value has a key that the schema does not contain, or lacks one that it requires.
fn known(root: &serde_json::Value, schema: &serde_json::Value, value: &serde_json::Value, path: &str) {
    if let Some(reference) = schema.get("$ref").and_then(|reference| reference.as_str()) {
        return known(root, root.pointer(&reference[1..]).unwrap(), value, path);
    }
    if let Some(choices) = schema.get("anyOf").and_then(|choices| choices.as_array()) {
        return known(root, &choices[0], value, path);
    }
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let path = format!("{path}/{key}");
                let pattern = schema["patternProperties"].as_object().and_then(|patterns| patterns.values().next());
                let property = schema["properties"].get(key).or(pattern);
                known(root, property.unwrap_or_else(|| panic!("{path} is not in {schema}")), value, &path);
            }
            for key in schema["required"].as_array().into_iter().flatten() {
                assert!(map.contains_key(key.as_str().unwrap()), "{path} lacks {key}");
            }
        }
        serde_json::Value::Array(elements) => {
            for element in elements {
                known(root, &schema["items"], element, path);
            }
        }
        _ => assert!(schema.get("properties").is_none(), "{path} is not a map"),
    }
}

mod fuzzed {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// A mistake anywhere gives an error or another configuration, never a panic. Its place is in the text.
        #[test]
        fn a_broken_example_is_read_or_refused(at in 0..FULL.len(), length in 0..12_usize, insert in "[ \\n\\t:,{}\\[\\]\"'&*!|>%@#-]{0,4}") {
            let mut bytes = FULL.as_bytes().to_vec();
            bytes.splice(at..(at + length).min(FULL.len()), insert.bytes());
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Err(error) = read(&text) {
                prop_assert!(render(&error).contains("memgate.yaml"));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[ -~\\n\\t\\r\u{a0}-\u{ffff}]{0,200}") {
            if let Err(error) = read(&text) {
                prop_assert!(render(&error).contains("memgate.yaml"));
            }
        }
    }
}
