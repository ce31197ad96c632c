//! `memgate init` on real modules: what it writes is a configuration with which `memgate check` measures, and what it
//! cannot find out stands there as a comment.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use common::{assert_fails, can_attach, changed, flat, memgate, plain, repository, running::Running, stderr, stdout};
use memgate_testing::go::newest;
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// A directory with sources, in which memgate runs.
struct Project(TempDir);

impl Project {
    /// A module with these files.
    fn new(files: &[(&str, &str)]) -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        project.write("go.mod", "module example.com/project\n\ngo 1.21\n");
        for (name, text) in files {
            project.write(name, text);
        }
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// memgate with the newest Go and without the network.
    fn command(&self, words: &[&str]) -> Command {
        let mut memgate = memgate();
        memgate.args(words);
        let mut command = plain(&memgate);
        let path = format!("{}:{}", newest().go().parent().unwrap().display(), std::env::var("PATH").unwrap());
        command.current_dir(self.0.path()).env("PATH", path).env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
        command.env("CGO_ENABLED", "0");
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        let output = self.command(words).output().unwrap();
        self.assert_nothing_runs();
        output
    }

    fn assert_nothing_runs(&self) {
        let left = common::processes().into_iter().filter(|process| {
            fs::read_link(format!("/proc/{process}/exe")).is_ok_and(|exe| exe.starts_with(self.0.path()))
        });
        assert_eq!(left.collect::<Vec<_>>(), Vec::<i32>::new());
        assert_eq!(common::cgroups(), Vec::<PathBuf>::new(), "cgroups");
    }

    fn file(&self) -> String {
        fs::read_to_string(self.path("memgate.yaml")).unwrap()
    }

    /// The file's comments and keys without its line breaks.
    fn words(&self) -> String {
        self.file().replace(['#', '\n'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// A program that answers at this port.
fn server(port: u16, handlers: &str) -> String {
    format!(
        "package main\n\nimport (\n\t\"fmt\"\n\t\"net/http\"\n)\n\nfunc hello(w http.ResponseWriter, _ *http.Request) {{ fmt.Fprintln(w, 1) }}\n\n\
         func main() {{\n{handlers}\n\tfmt.Println(http.ListenAndServe(\"127.0.0.1:{port}\", nil))\n}}\n"
    )
}

#[test]
fn a_check_measures_what_init_has_written() {
    if !can_attach() {
        return;
    }
    let project = Project::new(&[]);
    copy(&repository().join("fixtures-go"), project.0.path());
    fs::remove_file(project.path("memgate.yaml")).unwrap();
    let names = ["cmd/uaa", "field/plain-http", "field/filling-cache", "field/self-client"];
    let packages: Vec<_> = names.iter().flat_map(|name| ["--package", name]).collect();
    let output = project.run(&[&["init"], &packages[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("uaa: 1 request in its load"), "{}", stdout(&output));
    let short = "phases: { warmup: 1s, measure: 3s, drain: 1s }";
    let file = changed(&project.file(), "# phases: { warmup: 30s, measure: 60s, drain: 10s }", short);
    // No figure depends on the speed of the machine.
    let slow: Vec<_> =
        file.lines().map(|line| if line.contains(" rate: ") { "      rate: 20/s" } else { line }).collect();
    fs::write(project.path("memgate.yaml"), slow.join("\n")).unwrap();
    let output = project.run(&["check", "--runs", "1", "--format", "json"]);
    // There is no baseline yet.
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let services = report["results"].as_array().unwrap();
    assert_eq!(services.len(), names.len(), "{report:#}");
    for service in services {
        let gates = service["gates"].as_array().unwrap();
        let errors = gates.iter().find(|gate| gate["metric"] == "request_errors").unwrap();
        assert_eq!(errors["measured"], 0.0, "{service:#}");
    }
}

#[test]
fn a_service_that_does_not_start_gets_a_file_all_the_same() {
    let lacks = "package main\n\nimport (\n\t\"log\"\n\t\"net/http\"\n\t\"os\"\n)\n\nfunc main() {\n\
        \tif os.Getenv(\"DATABASE_URL\") == \"\" {\n\t\tlog.Fatal(\"no \\x1b[31mDATABASE_URL\\nversion: 2\")\n\t}\n\
        \thttp.HandleFunc(\"GET /orders\", nil)\n\tlog.Fatal(http.ListenAndServe(\":8431\", nil))\n}\n";
    let project = Project::new(&[("main.go", lacks)]);
    let output = project.run(&["init"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stdout(&output).contains("project: to be completed"), "{}", stdout(&output));
    let words = project.words();
    for expected in [
        ".: it exited with code 1 before it listened.",
        "no ␛[31mDATABASE_URL | version: 2",
        "Its sources read these variables: DATABASE_URL.",
        "http://127.0.0.1:8431/orders",
    ] {
        assert!(words.contains(expected), "`{expected}` is not in:\n{}", project.file());
    }
    // memgate reads it, and says what is wrong with the service.
    assert_fails(&project.run(&["check", "--tier", "T0"]), 4, &["launch:", "DATABASE_URL"]);
}

#[test]
fn a_program_is_started_as_it_wants_to_be() {
    let command = server(8432, "\thttp.HandleFunc(\"/work\", hello)").replace(
        "func main() {",
        "func main() {\n\tif len(os.Args) < 2 || os.Args[1] != \"serve\" {\n\t\tfmt.Println(\"Commands:\\n  serve   serves\")\n\t\treturn\n\t}",
    );
    let command = changed(&command, "\"net/http\"\n", "\"net/http\"\n\t\"os\"\n");
    let port = server(8433, "\thttp.HandleFunc(\"/work\", hello)");
    let by_variable = changed(&port, "\"127.0.0.1:8433\"", "\"127.0.0.1:\" + os.Getenv(\"PORT\")");
    let by_variable = changed(&by_variable, "\"net/http\"\n", "\"net/http\"\n\t\"os\"\n");
    let project = Project::new(&[("cmd/command/main.go", &command), ("cmd/variable/main.go", &by_variable)]);
    let output = project.run(&["init"]);
    assert_eq!(output.status.code(), Some(0), "{}\n{}", stderr(&output), project.file());
    assert!(project.words().contains("Its help names the command `serve`. args: [\"serve\"]"), "{}", project.file());
    assert!(project.words().contains("Its sources read this variable. env: { PORT: \"80"), "{}", project.file());
}

#[test]
fn a_port_that_is_taken_or_changes_is_replaced_by_an_option() {
    let with_option = |default: &str| {
        let text = server(
            8434,
            "\tlisten := flag.String(\"listen\", DEFAULT, \"where\")\n\tflag.Parse()\n\thttp.HandleFunc(\"/work\", hello)",
        );
        let text = changed(&text, "\"127.0.0.1:8434\"", "*listen").replace("DEFAULT", default);
        changed(&text, "import (", "import (\n\t\"flag\"")
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let project = Project::new(&[
        ("cmd/taken/main.go", &with_option(&format!("\"{address}\""))),
        ("cmd/chance/main.go", &with_option("\"127.0.0.1:0\"")),
    ]);
    let output = project.run(&["init"]);
    let file = project.file();
    assert_eq!(output.status.code(), Some(0), "{}\n{file}", stderr(&output));
    assert_eq!(file.matches("args: [\"-listen\", \"127.0.0.1:80").count(), 2, "{file}");
    assert!(project.words().contains("Its usual port was taken when memgate init started it."), "{file}");
}

#[test]
fn what_is_no_service_is_left_out() {
    let client = "package main\n\nimport (\n\t\"fmt\"\n\t\"net/http\"\n)\n\nfunc main() { fmt.Println(http.Get(\"http://127.0.0.1:1/\")) }\n";
    let files = [
        ("cmd/tool/main.go", "package main\n\nfunc main() {}\n"),
        ("cmd/client/main.go", client),
        ("cmd/broken/main.go", "package main\n\nimport _ \"net/http\"\n\nfunc main() { no }\n"),
        ("cmd/api/main.go", &server(8435, "\thttp.HandleFunc(\"/work\", hello)")),
    ];
    let project = Project::new(&files);
    let output = project.run(&["init"]);
    // The one that does not build is a failure; the others have their file.
    assert_fails(&output, 4, &["`go build ./cmd/broken`", "undefined: no"]);
    assert!(project.file().contains("\n  api:\n") && !project.file().contains("broken"), "{}", project.file());
    let left: Vec<_> =
        stdout(&output).lines().filter_map(|line| line.strip_prefix("  left out: ").map(str::to_owned)).collect();
    assert_eq!(
        left,
        [
            "cmd/tool: it imports no `net`, so that it listens nowhere",
            &format!(
                "cmd/broken: build: `go build ./cmd/broken` in {} failed",
                project.0.path().canonicalize().unwrap().display()
            ),
            "cmd/client: nothing in its executable listens at a TCP address",
        ]
    );
    fs::remove_file(project.path("memgate.yaml")).unwrap();
    for (package, code, words) in [
        ("./cmd/broken", 4, "undefined: no"),
        (
            "./cmd/none",
            2,
            "--package ./cmd/none: there is no such package `main` help: programs there: cmd/api, cmd/broken",
        ),
    ] {
        assert_fails(&project.run(&["init", "--package", package]), code, &[words]);
        assert!(!project.path("memgate.yaml").exists());
    }
    // Somebody knows better: what is asked for by name is tried.
    let output = project.run(&["init", "--print", "--package", "./cmd/client"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stdout(&output).contains("\n  client:\n") && !project.path("memgate.yaml").exists());
}

#[test]
fn modules_in_subfolders_have_their_services_in_one_file() {
    let api = server(8436, "\thttp.HandleFunc(\"/work\", hello)");
    let project = Project::new(&[
        ("go.work", "go 1.21\n\nuse ./services/pay\n"),
        ("services/pay/go.mod", "module example.com/pay\n\ngo 1.21\n"),
        ("services/pay/main.go", &api),
        ("services/lone/go.mod", "module example.com/lone\n\ngo 1.21\n"),
        ("services/lone/main.go", &changed(&api, "8436", "8437")),
        ("doc.go", "package project\n"),
    ]);
    let output = project.run(&["init"]);
    let file = project.file();
    assert_eq!(output.status.code(), Some(0), "{}\n{file}", stderr(&output));
    assert!(file.contains("build: { dir: services/pay, package: . }"), "{file}");
    assert!(file.contains("build: { dir: services/lone, package: ., env: { GOWORK: \"off\" } }"), "{file}");
    // The sources alone make a file too.
    let output = project.run(&["init", "--no-run", "--print"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("services/pay: not started.") && stdout(&output).contains(":8436/work"));
}

#[test]
fn a_module_that_cannot_be_listed_is_left_out_if_there_are_others() {
    let project = Project::new(&[("main.go", &server(8439, "\thttp.HandleFunc(\"/work\", hello)"))]);
    project.write("broken/go.mod", "no module\n");
    let output = project.run(&["init", "--no-run", "--print"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stdout(&output).contains(":8439/work"), "{}", stdout(&output));
    let said = stderr(&output);
    assert!(said.contains("go.mod:1") && said.contains("  left out: broken: build: `go list` in "), "{said}");
}

#[test]
fn nothing_is_written_or_left_if_it_is_interrupted() {
    let waits = "package main\n\nimport (\n\t\"net\"\n\t\"time\"\n)\n\nvar listen = net.Listen\n\n\
        func main() { time.Sleep(time.Hour); listen(\"tcp\", \":1\") }\n";
    let project = Project::new(&[("main.go", waits)]);
    let mut running = Running::start(&mut project.command(&["init"]));
    running.says("project: starting it");
    running.signal(Signal::SIGINT);
    let ended = running.ends();
    assert_eq!(ended.status.code(), Some(130), "{}", ended.said);
    project.assert_nothing_runs();
    assert!(!project.path("memgate.yaml").exists());
}

#[test]
fn a_link_out_of_the_tree_is_neither_read_nor_written() {
    let project = Project::new(&[("doc.go", "package project\n")]);
    let outside = Project::new(&[("main.go", &server(8438, "\thttp.HandleFunc(\"/secret\", hello)"))]);
    std::os::unix::fs::symlink(outside.0.path(), project.path("services")).unwrap();
    fs::create_dir(project.path("cmd")).unwrap();
    fs::write(project.path("cmd/main.go"), "package main\n\nimport _ \"net\"\n\nfunc main() {}\n").unwrap();
    std::os::unix::fs::symlink(outside.path("main.go"), project.path("cmd/routes.txt")).unwrap();
    let output = project.run(&["init", "--no-run", "--print"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("package: ./cmd") && !stdout(&output).contains("secret"), "{}", stdout(&output));
    std::os::unix::fs::symlink(outside.path("made"), project.path("memgate.yaml")).unwrap();
    assert_fails(&project.run(&["init", "--no-run"]), 2, &["memgate.yaml: there is such a file already"]);
    let output = project.run(&["init", "--no-run", "--force"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!outside.path("made").exists() && project.file().starts_with("# What `memgate check`"));
}

#[test]
fn a_module_without_programs_is_told() {
    let project = Project::new(&[("doc.go", "package project\n")]);
    let output = project.run(&["init"]);
    assert_fails(&output, 2, &["there is no package `main` that may be a service"]);
    let project = Project::new(&[("main.go", "package main\n\nfunc main() {}\n")]);
    assert_fails(&project.run(&["init"]), 2, &[".: it imports no `net`, so that it listens nowhere"]);
    let broken = Project::new(&[("main.go", "package main\n")]);
    broken.write("go.mod", "no module\n");
    let output = broken.run(&["init"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(
        flat(&stderr(&output)).contains("`go list` in") && stderr(&output).contains("go.mod:1"),
        "{}",
        stderr(&output)
    );
}
