//! Configuration → plan. Pure: uses no process, clock, file or network.

use std::path::PathBuf;

use memgate_evidence::{
    error::{InputError, Result},
    plan::{self, Collecting, Plan},
    platform::Platform,
    secrets::Secrets,
};

use super::{Before, Config, Service, Sidecar};

impl Config {
    /// The service with this name.
    ///
    /// # Errors
    /// When there is none. The error names the available services.
    pub fn service(&self, name: &str) -> Result<&Service> {
        self.services.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.services.keys().map(String::as_str).collect();
            InputError::new(
                format!("there is no service `{name}` in the configuration"),
                format!("services there: {}", names.join(", ")),
            )
            .into()
        })
    }

    /// The plan of one run; see [`Service::plan`].
    ///
    /// # Errors
    /// When there is no such service.
    pub fn plan(&self, service: &str, platform: Platform, run: u32, executable: PathBuf) -> Result<Plan> {
        Ok(self.service(service)?.plan(platform, run, executable))
    }
}

impl Service {
    /// The plan of one run (numbered from 1) of an executable that was built for the platform.
    pub fn plan(&self, platform: Platform, run: u32, executable: PathBuf) -> Plan {
        Plan {
            service: self.name.clone(),
            platform,
            run,
            baseline: self.baseline.clone(),
            executable,
            args: self.run.args.clone(),
            watch: self.run.watch.clone(),
            env: self.run.env.clone(),
            stdin: self.run.stdin,
            secrets: Secrets::default(),
            directory: self.run.directory.clone(),
            account: None,
            ready: self.run.ready.clone(),
            memory_max: self.run.memory_max,
            sidecars: self.sidecars.iter().map(sidecar).collect(),
            before: self.before.iter().map(before).collect(),
            load: self.load.clone(),
            phases: self.phases,
            seed: self.seed,
            collecting: Collecting::default(),
            stop_timeout_ms: self.run.stop_timeout_ms,
        }
    }
}

fn sidecar(sidecar: &Sidecar) -> plan::Sidecar {
    plan::Sidecar {
        name: sidecar.name.clone(),
        words: sidecar.words.clone(),
        env: sidecar.env.clone(),
        directory: sidecar.directory.clone(),
        account: None,
        ready: sidecar.ready.clone(),
        memory_max: sidecar.memory_max,
        stop_timeout_ms: sidecar.stop_timeout_ms,
    }
}

fn before(before: &Before) -> plan::Before {
    plan::Before {
        words: before.words.clone(),
        env: before.env.clone(),
        directory: before.directory.clone(),
        account: None,
        timeout_ms: before.timeout_ms,
    }
}
