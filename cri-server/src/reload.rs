//! SIGHUP: the daemon reads its configuration again and takes over what can change while it runs.
//!
//! What the registries' files say needs none of this: they are read anew for each pull.

use std::convert::Infallible;
use std::path::PathBuf;

use engine::Engine;
use tokio::signal::unix::Signal;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::reload::Handle;

use crate::activation;
use crate::cli::Flags;
use crate::config::{self, Applies, Settings, Values};
use crate::pressure::Pressure;

/// What decides which events are logged, while the daemon runs.
pub(crate) type LogFilter = Handle<Targets, Registry>;

/// What a reload needs to know.
#[derive(Debug)]
pub(crate) struct Reloading {
    /// The command line, which still beats the files.
    pub(crate) flags: Flags,
    /// The folder of the daemon's own program.
    pub(crate) programs: PathBuf,
    /// Decides what is logged.
    pub(crate) log: LogFilter,
    /// What the daemon started with, and then what it has taken over.
    pub(crate) values: Values,
}

impl Reloading {
    /// Reloads at each signal, for ever.
    pub(crate) async fn at_each(
        mut self,
        mut hangups: Signal,
        engine: &Engine,
        pressure: &Pressure,
    ) -> Infallible {
        loop {
            if hangups.recv().await.is_none() {
                return std::future::pending().await;
            }
            activation::reloading();
            let outcome = if self.reload(engine, pressure) {
                "serving; the configuration was read again"
            } else {
                "serving; a new configuration was refused, the old one holds"
            };
            activation::reloaded(outcome);
        }
    }

    /// A configuration that is refused changes nothing; says whether it was taken.
    fn reload(&mut self, engine: &Engine, pressure: &Pressure) -> bool {
        let taken = config::load(&self.flags, &self.programs)
            .map_err(anyhow::Error::from)
            .and_then(|settings| self.take_over(settings, engine, pressure));
        if let Err(error) = &taken {
            tracing::error!(%error, "reload: the configuration is refused; all stays as it was");
        }
        taken.is_ok()
    }

    /// The first steps are those that may fail.
    fn take_over(
        &mut self,
        settings: Settings,
        engine: &Engine,
        pressure: &Pressure,
    ) -> anyhow::Result<()> {
        let differing = self.values.differing(&settings.values);
        let names = |applies| -> Vec<&str> {
            let names = differing.iter().filter(|(_, when)| *when == applies);
            names.map(|(name, _)| name.as_str()).collect()
        };
        let classes = engine::Classes::read(&settings.engine.classes)?;
        engine
            .images()
            .judge_by(&settings.engine.image.signatures)?;
        engine.set_classes(classes);
        engine.limit_storage(settings.engine.limits);
        pressure.warn_at(settings.thresholds);
        if let Err(error) = engine.images().scrub_by(settings.engine.image.scrub) {
            tracing::error!(%error, "reload: layers are not looked at any more");
        }
        if let Err(error) = self.log.reload(settings.log) {
            tracing::error!(%error, "reload: what is logged stays as it was");
        }
        let waiting = names(Applies::AtStart);
        if !waiting.is_empty() {
            tracing::warn!(keys = ?waiting, "reload: these keys wait for the next start");
        }
        let changed = names(Applies::AtReload);
        tracing::info!(keys = ?changed, "reload: the configuration was read again");
        self.values.take_reloadable(settings.values);
        Ok(())
    }
}
