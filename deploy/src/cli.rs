//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::settings::Flags;
use crate::settings::frontend::FrontendRole;
use crate::settings::worker::WorkerRole;

#[derive(Debug, Parser)]
#[command(
    name = "tercet",
    version,
    about = "A distributed, fault-tolerant key-value store: the Redis protocol and REST in front, PostgreSQL behind, \
             three copies of every key in between.",
    long_about = "A distributed, fault-tolerant key-value store: the Redis protocol and REST in front, PostgreSQL \
                  behind, three copies of every key in between.\n\nWithout a command, `tercet` is `tercet up`: a whole \
                  cluster on this machine.",
    after_long_help = "\
Examples:
  tercet                                 four workers, four PostgreSQLs, one frontend, on this machine
  redis-cli -p 6379 SET greeting hello   … from another terminal
  curl http://127.0.0.1:8080/readyz
  tercet node kill w2                    a worker dies; clients notice nothing
  tercet status                          who is alive, what the ring looks like
  tercet node start w2

  tercet frontend --help                 the controller, for real deployments
  tercet worker --help                   a storage node over its own PostgreSQL",
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole cluster on this machine (the default)
    #[command(
        long_about = "Runs a whole cluster on this machine: workers, a private PostgreSQL for each, and a frontend. \
                      Every part is a process of its own, so that it can be killed: see `tercet node`.\n\nPostgreSQL \
                      13 or newer is looked for on the machine; where there is none it is fetched once into the data \
                      directory. As root, PostgreSQL runs as the user `postgres` or `nobody`, because it refuses to \
                      run as root.\n\nSettings of the parts can be given as TERCET_… variables: see `tercet frontend \
                      --help` and `tercet worker --help`.",
        after_long_help = "\
Examples:
  tercet up                                    data in ~/.local/share/tercet (as root: /var/lib/tercet)
  tercet up --ephemeral                        data in a temporary directory, removed at the end
  tercet up --resp 127.0.0.1:6380 --rest 127.0.0.1:8081 --data-dir ./second
  TERCET_PASSWORD=secret tercet up --resp 0.0.0.0:6379
  tercet up --postgres-bin /opt/pg16/bin       with this PostgreSQL"
    )]
    Up(Box<UpArgs>),
    /// List, stop, kill, start or add parts of the cluster that `tercet up` runs
    #[command(after_long_help = "\
Parts are w1, w2, … (workers), w1-db, w2-db, … (the workers' PostgreSQLs) and frontend.

Examples:
  tercet node list
  tercet node kill w2        SIGKILL: the worker is gone without a word
  tercet node kill w3-db     SIGKILL to a PostgreSQL and everything under it
  tercet node stop frontend  SIGTERM: an orderly end
  tercet node start w2       the same settings, the same data
  tercet node add            one worker more")]
    Node(NodeArgs),
    /// Show workers, ring, epoch and health
    #[command(after_long_help = "\
Exit code 0: every key can be read and written; 1: not; 2: the frontend was not reached.

Examples:
  tercet status
  tercet status --json | jq .partitions
  TERCET_PASSWORD=secret tercet status --rest https://kv.example.org")]
    Status(StatusArgs),
    /// Have a worker hand over all that it holds, so that it can be taken away
    #[command(
        long_about = "Has a worker hand over all that it holds to the others, and says when that is done: then it can be \
                      stopped. Clients notice nothing. A worker is not let go when fewer would be \
                      left than copies are kept; `tercet status` says so.",
        after_long_help = "\
Exit code 0: it holds nothing any more (with --no-wait: it is told); 1: refused; 2: the frontend was not reached.

Examples:
  tercet drain w3
  tercet drain w3 --no-wait
  tercet drain w3 --cancel       it may stay, and gets its share again"
    )]
    Drain(DrainArgs),
    /// Run a frontend: RESP and REST over the ring
    #[command(
        long_about = "Runs a frontend (the controller): it speaks RESP and REST to clients, gRPC to workers, and keeps \
                      no user data.\n\nEvery setting can be a flag, a TERCET_… variable or a line of the TOML file \
                      given by --config; flags beat variables beat the file. All problems are told at once at start.",
        after_long_help = "\
Examples:
  tercet frontend --workers w1,w2,w3
  tercet frontend --config /etc/tercet/frontend.toml

  # frontend.toml
  workers = [\"w1=128@rack-a\", \"w2=128@rack-b\", \"w3=128@rack-c\"]
  resp = \"0.0.0.0:6379\"
  listen = \"0.0.0.0:7379\"
  password-file = \"/run/secrets/password\"
  cluster-secret-file = \"/run/secrets/cluster-secret\"
  request-timeout = \"3s\""
    )]
    Frontend(FrontendArgs),
    /// Run a worker: one storage node over its own PostgreSQL
    #[command(
        long_about = "Runs a worker: one storage node, the only writer of its own PostgreSQL.\n\nEvery setting can be a \
                      flag, a TERCET_… variable or a line of the TOML file given by --config; flags beat variables \
                      beat the file. All problems are told at once at start. The worker refuses a PostgreSQL whose \
                      fsync, synchronous_commit or full_page_writes is off.",
        after_long_help = "\
Examples:
  tercet worker --id w1 --postgres 'host=/run/postgresql user=tercet dbname=tercet'
  tercet worker --config /etc/tercet/worker.toml

  # worker.toml
  id = \"w1\"
  postgres = \"host=db1 user=tercet dbname=tercet\"
  postgres-password-file = \"/run/secrets/postgres\"
  listen = \"0.0.0.0:7380\"
  advertise = \"w1.internal:7380\"
  frontends = [\"kv-controller:7379\"]
  cluster-secret-file = \"/run/secrets/cluster-secret\"
  cache-bytes = \"1GiB\""
    )]
    Worker(WorkerArgs),
    /// Ask a part's /readyz and exit with 0 or 1 (for containers)
    Healthcheck(HealthcheckArgs),
    /// Print completions for a shell
    #[command(after_long_help = "\
Examples:
  tercet completions bash > /etc/bash_completion.d/tercet
  tercet completions zsh > ~/.zfunc/_tercet")]
    Completions { shell: clap_complete::Shell },
}

#[derive(Args, Debug, Clone)]
pub(crate) struct UpArgs {
    /// Workers, each with a PostgreSQL of its own; at least three. A data directory keeps its number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(3..=64))]
    pub(crate) workers: Option<u16>,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Keep the data in a temporary directory and remove it at the end
    #[arg(long, conflicts_with = "data_dir")]
    pub(crate) ephemeral: bool,
    /// Where Redis clients connect; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:6379", env = "TERCET_RESP")]
    pub(crate) resp: SocketAddr,
    /// Where REST clients, metrics and health checks connect; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080", env = "TERCET_REST")]
    pub(crate) rest: SocketAddr,
    #[command(flatten)]
    pub(crate) password: PasswordArgs,
    /// Directory with PostgreSQL's programs (initdb, postgres), instead of looking for it
    #[arg(long, value_name = "DIR", env = "TERCET_POSTGRES_BIN")]
    pub(crate) postgres_bin: Option<PathBuf>,
}

/// Which local cluster is meant.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct PlaceArgs {
    /// The cluster's data directory [default: $XDG_DATA_HOME/tercet or ~/.local/share/tercet; as root /var/lib/tercet]
    #[arg(long, value_name = "DIR", env = "TERCET_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// The password of clients.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct PasswordArgs {
    /// The clients' password. In the process list everybody can read it: the variable or --password-file is better
    #[arg(long, value_name = "SECRET", env = "TERCET_PASSWORD", hide_env_values = true)]
    pub(crate) password: Option<String>,
    /// File that holds it
    #[arg(long, value_name = "FILE", env = "TERCET_PASSWORD_FILE", conflicts_with = "password")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    pub(crate) action: NodeAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeAction {
    /// Show the parts and how they are
    List {
        #[command(flatten)]
        place: PlaceArgs,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// End a part in order (SIGTERM; PostgreSQL: a fast shutdown)
    Stop(NodeTarget),
    /// End a part at once (SIGKILL)
    Kill(NodeTarget),
    /// Start a part that is stopped, killed or has exited
    Start(NodeTarget),
    /// Add a worker with a PostgreSQL of its own; it joins the ring and gets its share of the data
    Add {
        #[command(flatten)]
        place: PlaceArgs,
    },
}

#[derive(Args, Debug)]
pub(crate) struct NodeTarget {
    /// w1, w1-db, frontend, …
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// Which frontend is asked.
#[derive(Args, Debug)]
pub(crate) struct FrontendAt {
    /// The frontend's REST address [default: that of the local cluster, else http://127.0.0.1:8080]
    #[arg(long, value_name = "URL", env = "TERCET_REST")]
    pub(crate) rest: Option<String>,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) password: PasswordArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// w1, w2, …
    pub(crate) worker: String,
    #[command(flatten)]
    pub(crate) frontend: FrontendAt,
    /// Do not wait until it has handed over
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Let it stay after all
    #[arg(long)]
    pub(crate) cancel: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) frontend: FrontendAt,
    /// For scripts: what the frontend answered
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct FrontendArgs {
    #[command(flatten)]
    pub(crate) flags: Flags<FrontendRole>,
    /// End when standard input ends, as `tercet up` wants it
    #[arg(long, hide = true)]
    pub(crate) exit_with_parent: bool,
}

#[derive(Args, Debug)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) flags: Flags<WorkerRole>,
    /// End when standard input ends, as `tercet up` wants it
    #[arg(long, hide = true)]
    pub(crate) exit_with_parent: bool,
}

#[derive(Args, Debug)]
pub(crate) struct HealthcheckArgs {
    /// What to ask; a worker's is http://127.0.0.1:9380/readyz
    #[arg(default_value = "http://127.0.0.1:8080/readyz", env = "TERCET_HEALTHCHECK_URL")]
    pub(crate) url: String,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = crate::units::duration)]
    pub(crate) timeout: std::time::Duration,
}

/// `tercet` alone: `tercet up` with its defaults and variables.
pub(crate) fn default_up() -> UpArgs {
    match Cli::parse_from(["tercet", "up"]).command {
        Some(Command::Up(args)) => *args,
        _ => unreachable!("`tercet up` parses as up"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_the_help_shows_parses() {
        for line in [
            "tercet",
            "tercet up --workers 4 --ephemeral --resp 127.0.0.1:0 --rest 127.0.0.1:0",
            "tercet up --data-dir x --password-file y",
            "tercet node list --json",
            "tercet node kill w2 --data-dir x",
            "tercet node add",
            "tercet drain w3 --no-wait --rest http://x:1",
            "tercet drain w3 --cancel",
            "tercet status --json --rest http://x:1",
            "tercet frontend --workers w1,w2,w3 --password-file x --hedge-after 10ms",
            "tercet worker --id w1 --postgres host=/x --config y --exit-with-parent",
            "tercet healthcheck http://127.0.0.1:9380/readyz",
            "tercet completions zsh",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "tercet up --workers 2",
            "tercet up --ephemeral --data-dir x",
            "tercet node",
            "tercet up --resp x",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
