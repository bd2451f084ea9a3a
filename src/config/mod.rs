//! Settings: what the driver was told, checked once.
//!
//! Each setting is a flag and an environment variable of the same name; the manifest of the plugin lists them all. An
//! empty value means the default, since a plugin's settings can be emptied but not removed. AWS's own variables
//! (`AWS_REGION`, `AWS_ENDPOINT_URL_EC2`, …) are read by its SDK.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use tracing_subscriber::filter::Targets;

mod check;
mod database;
mod listen;
mod original;

use crate::domain::plan::Warmth;
use crate::domain::plan::blocks::Policy;
use crate::outside::ec2::StaticKeys;
use crate::store::Database;
use crate::telemetry::{Format, format, levels};
use check::{blocks, check_aws, duration, flag, folder, interface, interval, keeping, number, request_timeout, socket};
use listen::Typed;
pub use listen::{Listen, Tcp, TlsFiles};
use original::Original;

/// Where the plugin listens unless told otherwise: dockerd looks for plugins in this directory.
pub const LISTEN: &str = "unix:///run/docker/plugins/ec2-ipam.sock";

/// Settings as they were typed.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings")]
pub struct Given {
    /// mysql://user:password@host:3306/database, or sqlite:///path of a file for this host alone
    #[arg(
        long,
        global = true,
        env = "EC2_IPAM_DATABASE_URL",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub database_url: Secret,

    /// A file with the password of the URL's user, read for each login
    #[arg(long, global = true, env = "EC2_IPAM_DATABASE_PASSWORD_FILE", default_value = "", hide_default_value = true)]
    pub database_password_file: String,

    /// How the URL's user logs in: password, or rds-iam for tokens of AWS's IAM [password]
    #[arg(long, global = true, env = "EC2_IPAM_DATABASE_AUTH", default_value = "", hide_default_value = true)]
    pub database_auth: String,

    /// The folder of the driver's own journal [/var/lib/ec2-ipam]
    #[arg(long, global = true, env = "EC2_IPAM_STATE_DIR", default_value = "", hide_default_value = true)]
    pub state_dir: String,

    /// The parent interface whose ENI is used when a network names none, e.g. eth1
    #[arg(long, global = true, env = "EC2_IPAM_PARENT", default_value = "", hide_default_value = true)]
    pub parent: String,

    /// The socket that Docker calls, and addresses for clients elsewhere, by commas: unix:///path,https://0.0.0.0:8031
    #[arg(long, global = true, env = "EC2_IPAM_LISTEN", default_value = "", hide_default_value = true)]
    pub listen: String,

    /// Whether an http:// address may be other than a loopback one: true, or false [false]
    #[arg(long, global = true, env = "EC2_IPAM_LISTEN_PLAIN", default_value = "", hide_default_value = true)]
    pub listen_plain: String,

    /// The certificate of the https:// addresses, a PEM file
    #[arg(long, global = true, env = "EC2_IPAM_TLS_CERT", default_value = "", hide_default_value = true)]
    pub tls_cert: String,

    /// Its key, a PEM file
    #[arg(long, global = true, env = "EC2_IPAM_TLS_KEY", default_value = "", hide_default_value = true)]
    pub tls_key: String,

    /// The authorities of clients' certificates, a PEM file; set, whoever has none of theirs is not let in
    #[arg(long, global = true, env = "EC2_IPAM_TLS_CLIENT_CA", default_value = "", hide_default_value = true)]
    pub tls_client_ca: String,

    /// An address where Prometheus finds metrics, which the driver's own socket has always, such as 127.0.0.1:9809
    #[arg(long, global = true, env = "EC2_IPAM_METRICS", default_value = "", hide_default_value = true)]
    pub metrics: String,

    /// Idle, cooled addresses to hold per ENI [4]
    #[arg(long, global = true, env = "EC2_IPAM_WARM_TARGET", default_value = "", hide_default_value = true)]
    pub warm_target: String,

    /// Idle addresses to keep per ENI at most [8]
    #[arg(long, global = true, env = "EC2_IPAM_WARM_MAX", default_value = "", hide_default_value = true)]
    pub warm_max: String,

    /// Whether ENIs take whole /28 blocks, sixteen addresses for one slot: never, auto or always [never]
    #[arg(long, global = true, env = "EC2_IPAM_BLOCKS", default_value = "", hide_default_value = true)]
    pub blocks: String,

    /// How long a released address rests before another container gets it [60s]
    #[arg(long, global = true, env = "EC2_IPAM_COOLDOWN", default_value = "", hide_default_value = true)]
    pub cooldown: String,

    /// How long a request may take; Docker gives up after 30 s [20s]
    #[arg(long, global = true, env = "EC2_IPAM_REQUEST_TIMEOUT", default_value = "", hide_default_value = true)]
    pub request_timeout: String,

    /// How often rows, EC2 and Docker are compared [60s]
    #[arg(long, global = true, env = "EC2_IPAM_RECONCILE_INTERVAL", default_value = "", hide_default_value = true)]
    pub reconcile_interval: String,

    /// How often the subnet is scanned for addresses of others [600s]
    #[arg(long, global = true, env = "EC2_IPAM_SCAN_INTERVAL", default_value = "", hide_default_value = true)]
    pub scan_interval: String,

    /// Docker's own socket, read to see which addresses are in use; `none`: not read
    #[arg(long, global = true, env = "EC2_IPAM_DOCKER_SOCKET", hide_default_value = true)]
    pub docker_socket: Option<String>,

    /// How long the table keeps who had which address, for the whole fleet, such as 30d; 0: not at all [0]
    #[arg(long, global = true, env = "EC2_IPAM_HISTORY", default_value = "", hide_default_value = true)]
    pub history: String,

    /// true: ENIs of other hosts are served too, whose Engines have no driver of their own [false]
    #[arg(long, global = true, env = "EC2_IPAM_DISTANT", default_value = "", hide_default_value = true)]
    pub distant: String,

    /// What is logged: error, warn, info, debug, trace, or by module (info,ec2_ipam::eni=debug) [info]
    #[arg(long, global = true, env = "EC2_IPAM_LOG", default_value = "", hide_default_value = true)]
    pub log: String,

    /// How it is written: text, or json for one object a line [text]
    #[arg(long, global = true, env = "EC2_IPAM_LOG_FORMAT", default_value = "", hide_default_value = true)]
    pub log_format: String,

    /// The original's config.json: {"mysql":{host,port,user,password,database},"aws":{region,accessKeyId,secretAccessKey}}
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// A text that never shows in a log or an error.
#[derive(Clone, Default)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(not shown)")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// Settings as the driver runs with them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the table is.
    pub database: Database,
    /// The journal's file; none: this process serves no host.
    pub journal: Option<PathBuf>,
    /// The parent interface of networks that name none.
    pub parent: Option<String>,
    /// Where it listens.
    pub listen: Listen,
    /// Idle addresses to hold, and how long they rest.
    pub warmth: Warmth,
    /// Whether ENIs take blocks.
    pub blocks: Policy,
    /// The bound of every request.
    pub request_timeout: Duration,
    /// Period of the reconciler.
    pub reconcile_interval: Duration,
    /// Period of the subnet scan.
    pub scan_interval: Duration,
    /// Docker's API; none: not read.
    pub docker_socket: Option<PathBuf>,
    /// How long the table keeps who had which address; none: it is not told.
    pub history: Option<Duration>,
    /// Whether ENIs of other hosts are served.
    pub distant: bool,
    /// Region and keys from the original's config.json; none: the SDK's own chain.
    pub region: Option<String>,
    /// As above.
    pub keys: Option<StaticKeys>,
    /// What is logged.
    pub log: Targets,
    /// How it is written.
    pub log_format: Format,
    /// Why nothing is done: these are defaults in place of what cannot be used.
    pub wrong: Option<String>,
}

/// Where the journal is.
const STATE: &str = "/var/lib/ec2-ipam";

impl Given {
    /// Checks them, and AWS's own.
    ///
    /// # Errors
    /// A sentence with the setting, its value unless that may hold a secret, and what it must be.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        check_aws()?;
        self.own()
    }

    /// As a plugin has them: what cannot be used is told to whoever asks the driver, since a plugin that ends at its start
    /// shows only in the Engine's log why, and `docker plugin enable` says nothing of it.
    ///
    /// # Errors
    /// None that a setting makes.
    pub fn settings_of_plugin(&self) -> anyhow::Result<Settings> {
        let why = match self.settings() {
            Ok(settings) => return Ok(settings),
            Err(why) => why,
        };
        // What can be used is: where it listens, how it logs, and whom it would ask.
        let mut usable = self.clone();
        let settings = loop {
            match usable.own() {
                Ok(settings) => break settings,
                Err(why) if usable.forget(&format!("{why:#}")) || usable.config.take().is_some() => {}
                Err(_) => break Self::default().own()?,
            }
        };
        Ok(Settings { wrong: Some(format!("{why:#}")), ..settings })
    }

    /// The default in place of the setting that a sentence names; whether there was one to forget.
    fn forget(&mut self, why: &str) -> bool {
        // Of where it listens the own socket stays, if it can: that is where it is asked what is wrong.
        let own = listen::own_alone(&self.listen);
        if why.starts_with("EC2_IPAM_LISTEN ") && own != self.listen {
            self.listen = own;
            return true;
        }
        let settings = [
            ("EC2_IPAM_DATABASE_URL", &mut self.database_url.0),
            ("EC2_IPAM_DATABASE_PASSWORD_FILE", &mut self.database_password_file),
            ("EC2_IPAM_DATABASE_AUTH", &mut self.database_auth),
            ("EC2_IPAM_STATE_DIR", &mut self.state_dir),
            ("EC2_IPAM_PARENT", &mut self.parent),
            ("EC2_IPAM_LISTEN_PLAIN", &mut self.listen_plain),
            ("EC2_IPAM_LISTEN", &mut self.listen),
            ("EC2_IPAM_TLS_CERT", &mut self.tls_cert),
            ("EC2_IPAM_TLS_KEY", &mut self.tls_key),
            ("EC2_IPAM_TLS_CLIENT_CA", &mut self.tls_client_ca),
            ("EC2_IPAM_METRICS", &mut self.metrics),
            ("EC2_IPAM_WARM_TARGET", &mut self.warm_target),
            ("EC2_IPAM_WARM_MAX", &mut self.warm_max),
            ("EC2_IPAM_BLOCKS", &mut self.blocks),
            ("EC2_IPAM_COOLDOWN", &mut self.cooldown),
            ("EC2_IPAM_REQUEST_TIMEOUT", &mut self.request_timeout),
            ("EC2_IPAM_RECONCILE_INTERVAL", &mut self.reconcile_interval),
            ("EC2_IPAM_SCAN_INTERVAL", &mut self.scan_interval),
            ("EC2_IPAM_HISTORY", &mut self.history),
            ("EC2_IPAM_DISTANT", &mut self.distant),
            ("EC2_IPAM_LOG_FORMAT", &mut self.log_format),
            ("EC2_IPAM_LOG", &mut self.log),
        ];
        let named = settings.into_iter().find(|(name, value)| why.starts_with(name) && !value.is_empty());
        let forgotten = named.map(|(_, value)| value.clear()).is_some();
        forgotten || why.starts_with("EC2_IPAM_DOCKER_SOCKET") && self.docker_socket.take().is_some()
    }

    fn own(&self) -> anyhow::Result<Settings> {
        let original = self.config.as_deref().map(Original::read).transpose()?.unwrap_or_default();
        let database = database::Typed {
            url: &self.database_url.0,
            password_file: &self.database_password_file,
            auth: &self.database_auth,
        };
        let database = database.database(original.mysql.map(|mysql| mysql.server()))?;
        let warm_target = number("EC2_IPAM_WARM_TARGET", &self.warm_target, 4)?;
        // The manifest sets it, so that a larger target alone must not keep the plugin from starting.
        let warm_max = number("EC2_IPAM_WARM_MAX", &self.warm_max, 8)?.max(warm_target);
        let listen = self.listening()?;
        let docker_socket = self.docker_socket()?;
        if docker_socket.as_ref() == Some(&listen.unix) {
            bail!(
                "EC2_IPAM_DOCKER_SOCKET is {:?}, but must be Docker's own socket, not the driver's (EC2_IPAM_LISTEN)",
                listen.unix
            );
        }
        if let Database::Sqlite(file) = &database
            && *file == listen.unix
        {
            bail!(
                "EC2_IPAM_DATABASE_URL names the file {file:?}, but must name another than the driver's socket (EC2_IPAM_LISTEN)"
            );
        }
        let journal = folder("EC2_IPAM_STATE_DIR", &self.state_dir, STATE)?.join("journal.db");
        if let Database::Sqlite(file) = &database
            && *file == journal
        {
            bail!(
                "EC2_IPAM_DATABASE_URL names the file {file:?}, but must name another than the journal's (EC2_IPAM_STATE_DIR)"
            );
        }
        Ok(Settings {
            database,
            journal: Some(journal),
            parent: interface("EC2_IPAM_PARENT", &self.parent)?,
            listen,
            warmth: Warmth {
                target: warm_target,
                max: warm_max,
                cooldown: duration("EC2_IPAM_COOLDOWN", &self.cooldown, 60)?,
            },
            blocks: blocks("EC2_IPAM_BLOCKS", &self.blocks)?,
            request_timeout: request_timeout("EC2_IPAM_REQUEST_TIMEOUT", &self.request_timeout, 20)?,
            reconcile_interval: interval("EC2_IPAM_RECONCILE_INTERVAL", &self.reconcile_interval, 60)?,
            scan_interval: interval("EC2_IPAM_SCAN_INTERVAL", &self.scan_interval, 600)?,
            docker_socket,
            history: keeping("EC2_IPAM_HISTORY", &self.history)?,
            distant: flag("EC2_IPAM_DISTANT", &self.distant)?,
            region: original.aws.region,
            keys: original
                .aws
                .access_key_id
                .zip(original.aws.secret_access_key)
                .map(|(access_key_id, secret_access_key)| StaticKeys { access_key_id, secret_access_key }),
            log: levels(&self.log)?,
            log_format: format(&self.log_format)?,
            wrong: None,
        })
    }

    /// The driver's own socket, checked by itself: the command line needs nothing else to find its driver.
    pub fn socket(&self) -> anyhow::Result<PathBuf> {
        Ok(listen::addresses(&self.listen)?.0)
    }

    fn listening(&self) -> anyhow::Result<Listen> {
        let typed = Typed {
            listen: &self.listen,
            plain: &self.listen_plain,
            cert: &self.tls_cert,
            key: &self.tls_key,
            client_ca: &self.tls_client_ca,
            metrics: &self.metrics,
        };
        typed.listen()
    }

    /// Empty means not read, as the manifest has it; unset means where the host's /run is.
    fn docker_socket(&self) -> anyhow::Result<Option<PathBuf>> {
        Ok(match self.docker_socket.as_deref() {
            Some("" | "none") => None,
            // As DOCKER_HOST has it, or a path.
            Some(given) => Some(socket("EC2_IPAM_DOCKER_SOCKET", given.strip_prefix("unix://").unwrap_or(given))?),
            // The plugin sees the host's /run there.
            None if Path::new("/host/run").is_dir() => Some(PathBuf::from("/host/run/docker.sock")),
            None => Some(PathBuf::from("/run/docker.sock")),
        })
    }
}
