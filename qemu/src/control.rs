//! QEMU's control socket (QMP): stops a guest, saves it, and continues it.

use std::{io, path::Path, time::Duration};

use qapi::{
    futures::{QapiService, QmpStreamTokio},
    qmp,
};
use tokio::{
    io::{ReadHalf, WriteHalf},
    net::UnixStream,
};

/// One QEMU's control socket.
pub(crate) struct Control {
    service: QapiService<QmpStreamTokio<WriteHalf<UnixStream>>>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    /// Starts the conversation on a connection from QEMU.
    pub(crate) async fn negotiate(stream: UnixStream) -> io::Result<Self> {
        let (read, write): (ReadHalf<_>, WriteHalf<_>) = tokio::io::split(stream);
        let negotiation = QmpStreamTokio::open_split(read, write).await?;
        let (service, events) = negotiation.negotiate().await?.into_parts();
        // This call also handles the answers.
        tokio::spawn(events.into_future());
        Ok(Self { service })
    }

    /// Stops the guest's CPUs.
    pub(crate) async fn stop(&self) -> Result<(), String> {
        self.service.execute(qmp::stop {}).await.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Lets the guest's CPUs run.
    pub(crate) async fn cont(&self) -> Result<(), String> {
        self.service.execute(qmp::cont {}).await.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Writes the stopped guest to a file.
    pub(crate) async fn save(&self, file: &Path) -> Result<(), String> {
        self.map_memory().await?;
        let to = qmp::migrate { uri: Some(uri(file)), channels: None, detach: None, resume: None };
        self.service.execute(to).await.map_err(|error| error.to_string())?;
        self.wait().await
    }

    /// Loads the file into a guest that was started with `-incoming defer`.
    pub(crate) async fn load(&self, file: &Path) -> Result<(), String> {
        self.map_memory().await?;
        let from = qmp::migrate_incoming { uri: Some(uri(file)), channels: None, exit_on_error: None };
        self.service.execute(from).await.map_err(|error| error.to_string())?;
        self.wait().await
    }

    /// Each page has a fixed place in the file, so the file is no larger than the guest's memory.
    async fn map_memory(&self) -> Result<(), String> {
        let mapped = qmp::MigrationCapabilityStatus { capability: qmp::MigrationCapability::mapped_ram, state: true };
        let set = qmp::migrate_set_capabilities { capabilities: vec![mapped] };
        self.service.execute(set).await.map(|_| ()).map_err(|error| error.to_string())
    }

    async fn wait(&self) -> Result<(), String> {
        loop {
            let info = self.service.execute(qmp::query_migrate {}).await.map_err(|error| error.to_string())?;
            match info.status {
                Some(qmp::MigrationStatus::completed) => return Ok(()),
                Some(qmp::MigrationStatus::failed | qmp::MigrationStatus::cancelled) => {
                    return Err(info.error_desc.unwrap_or_else(|| "QEMU does not say why".to_owned()));
                }
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

fn uri(file: &Path) -> String {
    format!("file:{}", file.display())
}
