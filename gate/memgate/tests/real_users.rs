//! What a change decides to execute does not run as root when memgate does: builds, the service, the load command, git.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use common::{Bench, assert_fails, can_attach, stderr, uaa};
use memgate_evidence::platform::Platform;
use memgate_testing::go::newest;

/// A user that this machine has no name for, as the runner's is in a container.
const UID: u32 = 60_001;
const GID: u32 = 60_002;

/// A checkout whose directory belongs to that user, while root has made what lies in it.
struct Checkout(Bench);

impl Checkout {
    fn new(yaml: &str) -> Self {
        let bench = Bench::new(yaml);
        let root = bench.directory.path();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        chown(root, Some(UID), Some(GID)).unwrap();
        Self(bench)
    }

    fn root(&self) -> &Path {
        self.0.directory.path()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.root().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A file of the results on this platform.
    fn out(&self, service: &str, rest: &str) -> PathBuf {
        self.0.out().join(format!("{service}.{}.{rest}", Platform::host().folder()))
    }

    /// A directory that everybody can write to.
    fn open_directory(&self, name: &str) -> PathBuf {
        let path = self.root().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        path
    }

    fn record(&self) -> Output {
        self.memgate(&["record"])
    }

    /// memgate with this configuration.
    fn memgate(&self, words: &[&str]) -> Output {
        let words: Vec<_> = words.iter().map(OsStr::new).collect();
        let (config, out) = (self.0.config(), self.0.out());
        let options = [OsStr::new("--config"), config.as_os_str(), OsStr::new("--out"), out.as_os_str()];
        self.with_toolchain(&[&words[..], &options].concat())
    }

    /// memgate with a toolchain that lies where every user can reach it.
    fn with_toolchain(&self, words: &[&OsStr]) -> Output {
        let toolchain = newest().go().ancestors().nth(2).unwrap().to_owned();
        let here = self.root().join("go");
        fs::create_dir_all(&here).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "umask 077 && mount --bind \"$0\" \"$1\" && shift && exec \"$@\""]);
        command.arg(&toolchain).arg(&here).arg(env!("CARGO_BIN_EXE_memgate")).args(words);
        command.current_dir(self.root());
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}/bin:{path}", here.display())).env("NO_COLOR", "1");
        let output = command.env("CI_TOKEN", "a token").env("PASSWORD", "a password").output().unwrap();
        self.0.assert_nothing_left();
        output
    }
}

/// The lines that a script has written.
fn said(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
}

/// A checkout with the service `uaa` at this port, and this script as its load.
fn with_load(port: u16, script: impl Fn(&Checkout) -> String) -> Checkout {
    let yaml = r#"version: 1
services:
  s:
    binary: { PLATFORM: uaa }
    run:
      args: [-listen, "127.0.0.1:PORT"]
      ready: { http: "http://127.0.0.1:PORT/healthz", timeout: 60s }
      stop_timeout: 1s
    load: { command: [./load], env: { SET: here }, pass_env: [PASSWORD, NOT_SET] }
    phases: { warmup: 0s, measure: 1s, drain: 0s }
    runs: 1
"#;
    let yaml = yaml.replace("PLATFORM", Platform::host().name()).replace("PORT", &port.to_string());
    let checkout = Checkout::new(&yaml);
    fs::copy(uaa::uaa(), checkout.root().join("uaa")).unwrap();
    let script = script(&checkout);
    checkout.write("load", &format!("#!/bin/sh\n{script}\nexec sleep 1000\n"));
    checkout
}

#[test]
fn service_and_load_command_run_as_the_owner_of_the_checkout() {
    if !can_attach() {
        return;
    }
    let checkout = with_load(18471, |checkout| {
        format!(
            "id -u\nid -g\necho opened again >/dev/stdout\nenv | sort\nfor process in /proc/[0-9]*; do\n\
             [ \"$(readlink $process/exe)\" = {} ] && \
             grep -E '^(Uid|NoNewPrivs):' $process/status\ndone\nsetsid sleep 1000 &",
            checkout.root().join("uaa").display()
        )
    });
    let output = checkout.record();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let log = checkout.out("s", "run1.load.log");
    let lines = said(&log);
    assert_eq!(lines[..2], [UID.to_string(), GID.to_string()]);
    let uids = format!("Uid:\t{UID}\t{UID}\t{UID}\t{UID}");
    assert_eq!(lines[lines.len() - 2..], [uids.as_str(), "NoNewPrivs:\t1"]);
    for (line, expected) in [("HOME=/", true), ("SET=here", true), ("PASSWORD=***", true), ("CI_TOKEN=a token", false)]
    {
        assert_eq!(lines.iter().any(|found| found == line), expected, "{line} in {lines:?}");
    }
    assert!(!lines.iter().any(|line| line.starts_with("NOT_SET")), "{lines:?}");
    assert!(lines.iter().any(|line| line == "opened again"), "{lines:?}");
    for file in ["run1.load.log", "run1.service.log", "run1.evidence.json"] {
        assert_eq!(fs::metadata(checkout.out("s", file)).unwrap().uid(), 0, "{file} is a result");
    }
}

#[test]
fn results_go_nowhere_else() {
    if !can_attach() {
        return;
    }
    let checkout = with_load(18475, |checkout| {
        let out = checkout.0.out();
        format!("mv {0} {0}.away && ln -s {1} {0}", out.display(), checkout.root().join("elsewhere").display())
    });
    let elsewhere = checkout.open_directory("elsewhere");
    let output = checkout.record();
    assert_fails(&output, 4, &["/out is another directory than before"]);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    // The link is there now.
    assert_fails(&checkout.record(), 2, &["/out is a symbolic link in the checkout", "name a directory outside"]);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

/// As root, a process may go to any cgroup.
#[test]
fn a_service_outside_of_its_cgroup_is_not_measured() {
    if !can_attach() {
        return;
    }
    let checkout = with_load(18476, |checkout| {
        format!(
            "root=$(awk '$3 == \"cgroup2\" {{ print $2; exit }}' /proc/mounts)\nfor process in /proc/[0-9]*; do\n\
             [ \"$(readlink $process/exe)\" = {} ] && echo ${{process#/proc/}} > $root/cgroup.procs\ndone",
            checkout.root().join("uaa").display()
        )
    });
    let output = checkout.memgate(&["record", "--user", "root"]);
    assert_fails(&output, 4, &["has left the cgroup that memgate started it in", "`run.user` or --user"]);
}

#[test]
fn a_build_runs_as_the_owner_of_the_checkout_and_leaves_nothing() {
    if !can_attach() {
        return;
    }
    let checkout = Checkout::new(
        r#"version: 1
services:
  s:
    build: { dir: ., package: ., env: { CGO_ENABLED: "0", GOFLAGS: "-toolexec=TOOL" } }
    run: { ready: { http: "http://127.0.0.1:18472/" , timeout: 1s } }
    load: { rate: 1/s, requests: [ { get: "http://127.0.0.1:18472/" } ] }
"#,
    );
    let said_by_the_tool = checkout.open_directory("said").join("tool");
    let tool = checkout.write(
        "tool",
        &format!(
            "#!/bin/sh\nif [ ! -e {0} ]; then id -u >> {0}; env >> {0}; setsid sh -c 'exec -a of-the-build sleep 1000' & fi\n\
             exec \"$@\"\n",
            said_by_the_tool.display()
        ),
    );
    let yaml = fs::read_to_string(checkout.0.config()).unwrap();
    fs::write(checkout.0.config(), common::changed(&yaml, "TOOL", &tool.display().to_string())).unwrap();
    checkout.write("go.mod", "module service\n\ngo 1.21\n");
    checkout.write("main.go", "package main\n\nfunc main() { println(\"over\") }\n");
    // As a checkout by root in a directory of the runner's user.
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*", "-c", "user.name=n", "-c", "user.email=e@localhost"]);
        assert!(git.args(words).current_dir(checkout.root()).status().unwrap().success(), "{words:?}");
    };
    git(&["init", "--quiet"]);
    git(&["add", "go.mod", "main.go"]);
    git(&["commit", "--quiet", "--message", "first"]);
    // The program ends at once, so there is nothing to measure.
    let output = checkout.record();
    assert_fails(&output, 4, &["it exited with code 0 before it was ready; its output: | over"]);
    let lines = said(&said_by_the_tool);
    assert_eq!(lines[0], UID.to_string());
    assert!(!lines.iter().any(|line| line.starts_with("CI_TOKEN=") || line == "HOME=/root"), "{lines:?}");
    let left = common::processes().into_iter().filter(|process| {
        fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| line.starts_with(b"of-the-build"))
    });
    assert_eq!(left.collect::<Vec<_>>(), Vec::<i32>::new());
    let executable = checkout.0.out().join("build").join(Platform::host().folder()).join("s");
    assert_eq!(fs::metadata(&executable).unwrap().uid(), 0, "the service cannot replace it");
    let settings = Command::new(newest().go()).args(["version", "-m"]).arg(&executable).output().unwrap();
    let settings = String::from_utf8(settings.stdout).unwrap();
    assert!(settings.contains("vcs.revision="), "{settings}");
}

#[test]
fn root_is_a_user_that_can_be_asked_for() {
    if !can_attach() {
        return;
    }
    let checkout = Checkout::new(
        r#"version: 1
services:
  s:
    build: { dir: ., package: ., env: { CGO_ENABLED: "0" } }
    run: { user: root, ready: { http: "http://127.0.0.1:18473/", timeout: 1s } }
    load: { rate: 1/s, requests: [ { get: "http://127.0.0.1:18473/" } ] }
"#,
    );
    checkout.write("go.mod", "module service\n\ngo 1.21\n");
    checkout
        .write("main.go", "package main\n\nimport \"syscall\"\n\nfunc main() { println(\"as\", syscall.Getuid()) }\n");
    assert_fails(&checkout.record(), 4, &["| as 0"]);
    let yaml = fs::read_to_string(checkout.0.config()).unwrap();
    fs::write(checkout.0.config(), common::changed(&yaml, "user: root", "user: \"60003:60004\"")).unwrap();
    assert_fails(&checkout.record(), 4, &["| as 60003"]);
    fs::write(checkout.0.config(), common::changed(&yaml, "user: root", "user: no-such-user")).unwrap();
    assert_fails(&checkout.record(), 2, &["services.s.run.user: there is no `no-such-user` on this machine"]);
    fs::write(checkout.0.config(), &yaml).unwrap();
    assert_fails(&checkout.memgate(&["record", "--user", "60005"]), 4, &["| as 60005"]);
}

#[test]
fn a_commit_is_compared_with_in_a_checkout_of_another_owner() {
    if !can_attach() {
        return;
    }
    let checkout = Checkout::new(
        r#"version: 1
services:
  s:
    build: { dir: ., package: ., env: { CGO_ENABLED: "0", GOFLAGS: "-buildvcs=false" } }
    run: { ready: { http: "http://127.0.0.1:18474/", timeout: 1s } }
    load: { rate: 1/s, requests: [ { get: "http://127.0.0.1:18474/" } ] }
"#,
    );
    checkout.write("go.mod", "module service\n\ngo 1.21\n");
    checkout.write("main.go", "package main\n\nfunc main() { println(\"over\") }\n");
    let root = checkout.root().display().to_string();
    let as_owner = "git init --quiet --initial-branch main && git add go.mod main.go memgate.yaml && \
                    git -c user.name=n -c user.email=e@localhost commit --quiet --message first";
    let mut shell = Command::new("setpriv");
    shell.args([format!("--reuid={UID}"), format!("--regid={GID}"), "--clear-groups".to_owned()]);
    shell.args(["sh", "-c", as_owner]).current_dir(checkout.root()).env("HOME", &root);
    assert!(shell.status().unwrap().success());
    // A program that git would run as whoever calls it.
    let mark = checkout.open_directory("said").join("git");
    let monitor = checkout.write("monitor", &format!("#!/bin/sh\nid -u >> {}\n", mark.display()));
    let mut configure = Command::new("setpriv");
    configure.args([format!("--reuid={UID}"), format!("--regid={GID}"), "--clear-groups".to_owned()]);
    configure.args(["git", "config", "core.fsmonitor"]).arg(&monitor).current_dir(checkout.root()).env("HOME", &root);
    assert!(configure.status().unwrap().success());
    assert_fails(
        &checkout.memgate(&["record", "--against", "main"]),
        4,
        &["it exited with code 0 before it was ready"],
    );
    assert!(!mark.exists(), "{:?}", said(&mark));
    assert!(!checkout.0.out().join("against/checkout").exists());
}

#[test]
fn init_runs_nothing_as_root_and_leaves_the_file_to_the_owner() {
    if !can_attach() {
        return;
    }
    let checkout = Checkout::new("");
    fs::remove_file(checkout.0.config()).unwrap();
    checkout.write("go.mod", "module service\n\ngo 1.21\n");
    checkout.write(
        "main.go",
        "package main\n\nimport (\n\t\"fmt\"\n\t\"net/http\"\n\t\"os\"\n)\n\nfunc main() {\n\
         \tfmt.Println(\"as\", os.Getuid(), os.Getenv(\"CI_TOKEN\"))\n\
         \thttp.HandleFunc(\"/work\", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, 1) })\n\
         \tfmt.Println(http.ListenAndServe(\"127.0.0.1:18477\", nil))\n}\n",
    );
    let out = checkout.0.out();
    let words = ["init", "--out"].map(OsStr::new);
    let output = checkout.with_toolchain(&[&words[..], &[out.as_os_str()]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("service: building . as {UID}")), "{}", stderr(&output));
    let file = fs::metadata(checkout.0.config()).unwrap();
    assert_eq!((file.uid(), file.gid()), (UID, GID), "who runs the service edits the file");
    assert_eq!(said(&out.join("init/service.log")), [format!("as {UID} ")]);
    assert_eq!(fs::metadata(out.join("init/service")).unwrap().uid(), 0, "the service cannot replace it");
    let cache = fs::metadata(out.join(format!("init/home-{UID}/.cache/go-build"))).unwrap();
    assert_eq!(cache.uid(), UID, "Go ran as that user");
    // A user who may not write there gets no file from root.
    let output = checkout.with_toolchain(&["init", "--force", "--user", "60007"].map(OsStr::new));
    assert_fails(&output, 2, &["memgate.yaml: the user 60007, who runs the service, may not write there"]);
    // Nor does root write where a link of the checkout leads.
    let elsewhere = checkout.open_directory("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, checkout.root().join("target")).unwrap();
    assert_fails(&checkout.with_toolchain(&["init", "--force"].map(OsStr::new)), 2, &["target is a symbolic link"]);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}
