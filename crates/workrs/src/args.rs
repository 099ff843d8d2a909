//! Command-line options, as they are written. [`crate::config`] makes sense of those of `up`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::access::Role;

/// Hands compute jobs to a group of edge nodes and never loses their work.
#[derive(Debug, Parser)]
#[command(name = "workrs", version, max_term_width = 100)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node
    Up(Box<UpArgs>),
    /// Hand a job over, follow it, fetch its outputs and exit with its code
    Run(Box<RunArgs>),
    /// Hand a job over and print its id
    Submit(Box<SubmitArgs>),
    /// List jobs
    Ls(LsArgs),
    /// Show a job: its attempts, checkpoints and whether it could be resumed
    Show(JobArgs),
    /// Print what a job printed
    Logs(LogsArgs),
    /// Wait for a job to finish and exit with its code
    Wait(JobArgs),
    /// Fetch a job's outputs into a folder
    Fetch(FetchArgs),
    /// Cancel a job
    Cancel(JobArgs),
    /// Let a lost job run on from its newest checkpoint
    Resume(JobArgs),
    /// List the live nodes
    Nodes(ServerArgs),
    /// List, pull, import and remove the images that jobs run in
    Image(ImageArgs),
    /// Make, list and revoke the tokens that let people and programs in
    Token(TokenArgs),
    /// Show and set how much of the group owners may have
    Quota(QuotaArgs),
    /// Tell who changed what, and who was refused
    Audit(AuditArgs),
    /// Let a node take no more jobs and give back those that it has, saved
    Drain(DrainArgs),
    /// Make a node, or one of its jobs, fail, to see that the work goes on; where the node allows it (--allow-drills)
    Drill(DrillArgs),
    /// Tell how many checkpoints a job should have, and what they change
    Plan(PlanArgs),
    /// Kill nodes at random and measure how long jobs take, next to what the models say (needs root, takes hours)
    Experiment(Box<ExperimentArgs>),
    /// Check what this machine needs to be a node, and say how to mend what is missing
    Doctor(DoctorArgs),
    /// Helper processes of a node
    #[command(hide = true)]
    Internal {
        /// Which.
        verb: String,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Options of `up`. Flags count before the environment, which counts before the file.
#[derive(Debug, ClapArgs)]
pub struct UpArgs {
    /// Where the API listens
    #[arg(long, env = "WORKRS_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// The certificate that the API shows, with those that lead to its authority (PEM)
    #[arg(long, env = "WORKRS_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, env = "WORKRS_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// self-made: the API shows a certificate that the node makes for itself, once, and keeps in its data folder
    #[arg(long, env = "WORKRS_TLS", value_name = "KIND")]
    pub tls: Option<String>,
    /// Speak plain HTTP, which anybody on the way can read and change, beyond this machine
    #[arg(long, env = "WORKRS_INSECURE")]
    pub insecure: bool,
    /// Requests that each caller may make in a second, as in 1000/s, with bursts of twice as many; or off
    #[arg(long, env = "WORKRS_RATE_LIMIT", value_name = "RATE")]
    pub rate_limit: Option<String>,
    /// Where everything of this node lies
    #[arg(long, env = "WORKRS_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The node's name; the host's name by default
    #[arg(long, env = "WORKRS_NAME")]
    pub name: Option<String>,
    /// Where other nodes and clients reach this one, if not at the address where it listens
    #[arg(long, env = "WORKRS_ADVERTISE", value_name = "URL")]
    pub advertise: Option<String>,
    /// What the node does for the group beside its API: all, or some of run (run jobs) and keep (give back jobs of dead
    /// nodes, tidy up), separated by commas; none for the API alone
    #[arg(long, env = "WORKRS_ROLE", value_name = "ROLES")]
    pub role: Option<String>,
    /// The group's state: redb:FILE for one machine (in the data folder by default), or
    /// etcd://HOST:PORT,HOST:PORT/PREFIX; with TLS etcds://…?ca=FILE&cert=FILE&key=FILE. User and password of etcd are
    /// taken from WORKRS_ETCD_USER and WORKRS_ETCD_PASSWORD
    #[arg(long, env = "WORKRS_STATE", value_name = "URL")]
    pub state: Option<String>,
    /// The group's blobs: file:///DIR, or s3://BUCKET/PREFIX?endpoint=URL&region=REGION with credentials from AWS's usual
    /// variables or file
    #[arg(long, env = "WORKRS_BLOBS", value_name = "URL")]
    pub blobs: Option<String>,
    /// All nodes see the same folder at the file:// URL of --blobs, on a file system that they share
    #[arg(long, env = "WORKRS_BLOBS_SHARED")]
    pub blobs_shared: bool,
    /// Cores for jobs; all by default
    #[arg(long, env = "WORKRS_CPUS")]
    pub cpus: Option<String>,
    /// Memory for jobs; three quarters of the machine's by default
    #[arg(long, env = "WORKRS_MEMORY", value_name = "SIZE")]
    pub memory: Option<String>,
    /// Space for job disks, reserved at the first start where the data folder's file system has no reflinks
    #[arg(long, env = "WORKRS_DISK_POOL", value_name = "SIZE")]
    pub disk_pool: Option<String>,
    /// Space for the unpacked layers of images, which are kept from job to job
    #[arg(long, env = "WORKRS_IMAGE_CACHE", value_name = "SIZE")]
    pub image_cache: Option<String>,
    /// How long the group waits for a sign of life of this node
    #[arg(long, env = "WORKRS_LEASE", value_name = "DURATION")]
    pub lease: Option<String>,
    /// What runs jobs: runc, docker (a daemon of this machine), or auto: the first of them that can checkpoint jobs here
    #[arg(long, env = "WORKRS_ENGINE")]
    pub engine: Option<String>,
    /// Where Docker's daemon listens; /var/run/docker.sock by default
    #[arg(long, env = "DOCKER_HOST", value_name = "PATH")]
    pub docker_socket: Option<String>,
    /// Time to save jobs when the node is stopped
    #[arg(long, env = "WORKRS_STOP_TIMEOUT", value_name = "DURATION")]
    pub stop_timeout: Option<String>,
    /// The longest log that is kept of a job
    #[arg(long, env = "WORKRS_LOG_LIMIT", value_name = "SIZE")]
    pub log_limit: Option<String>,
    /// The most checkpoint data that a job may have in blobs; over it, it runs on without new checkpoints
    #[arg(long, env = "WORKRS_JOB_CHECKPOINT_QUOTA", value_name = "SIZE")]
    pub job_checkpoint_quota: Option<String>,
    /// The most checkpoint data that the jobs of this node may have in blobs, all together
    #[arg(long, env = "WORKRS_CHECKPOINT_QUOTA", value_name = "SIZE")]
    pub checkpoint_quota: Option<String>,
    /// How often nodes are expected to die, before any was seen to; what is seen counts more and more
    #[arg(long, env = "WORKRS_PRIOR_MTBF", value_name = "DURATION")]
    pub prior_mtbf: Option<String>,
    /// How long the record of a finished job stays in the state store, before it is moved to the blobs
    #[arg(long, env = "WORKRS_ARCHIVE_AFTER", value_name = "DURATION")]
    pub archive_after: Option<String>,
    /// How long outputs, log and record of a finished job stay: a duration, or forever
    #[arg(long, env = "WORKRS_KEEP_FINISHED", value_name = "DURATION")]
    pub keep_finished: Option<String>,
    /// How long it is kept who changed what and who was refused: a duration, or forever
    #[arg(long, env = "WORKRS_KEEP_AUDIT", value_name = "DURATION")]
    pub keep_audit: Option<String>,
    /// A file with the key that blobs are encrypted with (64 hex digits); the key itself can be in
    /// WORKRS_ENCRYPTION_KEY instead
    #[arg(long, env = "WORKRS_ENCRYPTION_KEY_FILE", value_name = "FILE")]
    pub encryption_key_file: Option<PathBuf>,
    /// How long a job waits for a node that fits its checkpoint, before it is started clean
    #[arg(long, env = "WORKRS_UNFIT_WAIT", value_name = "DURATION")]
    pub unfit_wait: Option<String>,
    /// The most of this machine's network that jobs may use: none, or host, which needs WORKRS_TOKEN
    #[arg(long, env = "WORKRS_ALLOW_NETWORK", value_name = "NETWORK")]
    pub allow_network: Option<String>,
    /// Let admins make this node fail (`workrs drill`), to see that its jobs outlive it
    #[arg(long, env = "WORKRS_ALLOW_DRILLS")]
    pub allow_drills: bool,
    /// A label that jobs can ask for by --constraint
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// A registry that images are pulled from without TLS; may be repeated. Those on this machine's loopback always are
    #[arg(
        long = "insecure-registry",
        env = "WORKRS_INSECURE_REGISTRIES",
        value_delimiter = ',',
        value_name = "HOST[:PORT]"
    )]
    pub insecure_registries: Vec<String>,
    /// A TOML file with any of these options
    #[arg(long, env = "WORKRS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Log as JSON
    #[arg(long)]
    pub json_log: bool,
}

/// Where the group is.
#[derive(Debug, Clone, ClapArgs)]
pub struct ServerArgs {
    /// Nodes to ask; when one does not answer, the next is asked
    #[arg(
        long,
        env = "WORKRS_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7480",
        value_name = "URL,…"
    )]
    pub server: Vec<String>,
    /// Believe nodes whose certificate leads to one in this file (PEM), instead of what the system believes
    #[arg(long, env = "WORKRS_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Believe nodes that show a certificate with one of these SHA-256 fingerprints
    #[arg(long, env = "WORKRS_TLS_FINGERPRINT", value_delimiter = ',', value_name = "SHA256,…")]
    pub tls_fingerprint: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which node to drain.
#[derive(Debug, ClapArgs)]
pub struct DrainArgs {
    /// The node's name
    pub node: String,
    /// Let it take jobs again
    #[arg(long)]
    pub undo: bool,
    /// Do not wait until it has given back all of its jobs
    #[arg(long)]
    pub no_wait: bool,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What to do with tokens.
#[derive(Debug, ClapArgs)]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token, and print it this once; the group's first has to be an admin's, and from then on everybody needs one
    Create(TokenCreateArgs),
    /// List all tokens, also those that count no more; not the tokens themselves
    Ls(ServerArgs),
    /// Take a token back
    Revoke(TokenRevokeArgs),
}

/// What a token is to allow, and to whom.
#[derive(Debug, ClapArgs)]
pub struct TokenCreateArgs {
    /// Who will show it: what they hand over is theirs
    #[arg(long, value_name = "NAME")]
    pub owner: String,
    /// What they may do
    #[arg(long, value_enum)]
    pub role: Role,
    /// For how long it counts, such as 30d; for ever if nothing is said
    #[arg(long, value_name = "DURATION")]
    pub expires: Option<String>,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which token.
#[derive(Debug, ClapArgs)]
pub struct TokenRevokeArgs {
    /// Its id, as `token ls` shows it
    pub id: String,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What to do with quotas.
#[derive(Debug, ClapArgs)]
pub struct QuotaArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: QuotaCommand,
}

/// What can be done with quotas.
#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// List the quotas that were set
    Ls(ServerArgs),
    /// Show the quota that counts for an owner, and what they have; your own if none is named
    Show(QuotaShowArgs),
    /// Set the quota of an owner; what is left out is not limited
    Set(QuotaSetArgs),
    /// Take the quota of an owner away
    Rm(QuotaRmArgs),
}

/// Whose quota.
#[derive(Debug, ClapArgs)]
pub struct QuotaShowArgs {
    /// The owner; '*' is everybody who has none of their own
    pub owner: Option<String>,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Whose quota to take away.
#[derive(Debug, ClapArgs)]
pub struct QuotaRmArgs {
    /// The owner; '*' is everybody who has none of their own
    pub owner: String,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// How much an owner may have.
#[derive(Debug, ClapArgs)]
pub struct QuotaSetArgs {
    /// The owner; '*' is everybody who has none of their own
    pub owner: String,
    /// Jobs that run at the same time; more wait
    #[arg(long, value_name = "JOBS")]
    pub running: Option<u32>,
    /// Cores of those
    #[arg(long)]
    pub cpus: Option<String>,
    /// Memory of those
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Jobs that wait; more are refused
    #[arg(long, value_name = "JOBS")]
    pub queued: Option<u32>,
    /// Inputs, checkpoints, outputs and logs in blobs; above it further jobs are refused
    #[arg(long, value_name = "SIZE")]
    pub stored: Option<String>,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which part of the audit trail.
#[derive(Debug, ClapArgs)]
pub struct AuditArgs {
    /// Of the last so long
    #[arg(long, value_name = "DURATION", default_value = "1d")]
    pub since: String,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What is to fail.
#[derive(Debug, ClapArgs)]
pub struct DrillArgs {
    /// The node's name
    pub node: String,
    /// Lose this job of it, instead of killing the node
    #[arg(long, value_name = "ID")]
    pub job: Option<String>,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What to do with images.
#[derive(Debug, ClapArgs)]
pub struct ImageArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List the images that the group has
    Ls(ServerArgs),
    /// Bring an image from a registry into the group, if it is not there
    Pull(ImagePullArgs),
    /// Bring the images of an archive into the group: of docker save, an OCI layout, or a tar of a root file system
    Import(ImageImportArgs),
    /// Take names away; an image without a name goes once no job uses it
    Rm(ImageRmArgs),
}

/// Which image to pull.
#[derive(Debug, ClapArgs)]
pub struct ImagePullArgs {
    /// The image's name, such as python:3.13-slim or registry.example.org/team/app:1
    pub image: String,
    /// Ask the registry even if the group has an image of that name
    #[arg(long)]
    pub always: bool,
    /// A user of the registry, instead of what the Docker configuration of the node's user says
    #[arg(long, requires = "password_stdin")]
    pub username: Option<String>,
    /// Read the user's password from standard input
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which archive to import.
#[derive(Debug, ClapArgs)]
pub struct ImageImportArgs {
    /// The archive: tar, also compressed with gzip or zstd
    pub file: PathBuf,
    /// What its image is called, instead of what the archive says
    #[arg(long)]
    pub name: Option<String>,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which names to take away.
#[derive(Debug, ClapArgs)]
pub struct ImageRmArgs {
    /// The image's names; sha256:… means all names of that image
    #[arg(required = true, num_args = 1..)]
    pub names: Vec<String>,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// A job and where to find it.
#[derive(Debug, ClapArgs)]
pub struct JobArgs {
    /// The job's id
    pub id: String,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What to hand over.
#[derive(Debug, ClapArgs)]
pub struct SubmitArgs {
    /// A script or program and its arguments; after -- a command that the node or the image has. With --image there may be
    /// neither: then the image's own program is run
    #[arg(value_name = "FILE [ARGS…] | -- COMMAND [ARGS…]", required_unless_present = "image", num_args = 1.., trailing_var_arg = true, allow_hyphen_values = false)]
    pub work: Vec<String>,
    /// What people call the job
    #[arg(long)]
    pub name: Option<String>,
    /// What it runs in: an image, pulled into the group if it is not there, or host, a frozen copy of the node's own programs
    #[arg(long)]
    pub image: Option<String>,
    /// When to ask the registry: missing (if the group has no image of that name) or always
    #[arg(long, value_name = "POLICY", default_value = "missing", value_parser = ["missing", "always"], requires = "image")]
    pub pull: String,
    /// The program that the command is given to instead of the image's own; an empty text means none
    #[arg(long, value_name = "PROGRAM", requires = "image")]
    pub entrypoint: Option<String>,
    /// A file or folder for the job's folder /job; may be repeated
    #[arg(long = "input", value_name = "PATH")]
    pub inputs: Vec<PathBuf>,
    /// Which files are outputs; every new or changed one by default; may be repeated
    #[arg(long = "output", value_name = "GLOB")]
    pub outputs: Vec<String>,
    /// A variable of the job's environment; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// Cores
    #[arg(long)]
    pub cpus: Option<String>,
    /// Memory limit
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Size of the job's disk
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<String>,
    /// The longest time that the job may run
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// How often a job that failed by itself is started anew
    #[arg(long)]
    pub retries: Option<u32>,
    /// How long the job is expected to run
    #[arg(long, value_name = "DURATION")]
    pub forecast: Option<String>,
    /// When to checkpoint: auto, none, files, every=30s; auto by default, with --network host files
    #[arg(long, value_name = "POLICY")]
    pub checkpoint: Option<String>,
    /// A label that the node must have; may be repeated
    #[arg(long = "constraint", value_name = "KEY=VALUE")]
    pub constraints: Vec<String>,
    /// What of the network the job sees: none, or host, all of its node's, where the operator allows it
    #[arg(long)]
    pub network: Option<String>,
    /// 0 is served first, 9 last
    #[arg(long)]
    pub priority: Option<u8>,
    /// The job's id, so that a retry is the same job
    #[arg(long)]
    pub id: Option<String>,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What to hand over and follow.
#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    /// Put outputs here, or in a new folder below it if they would overwrite anything
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub fetch_to: PathBuf,
    /// Do not fetch outputs
    #[arg(long)]
    pub no_fetch: bool,
    /// What to hand over.
    #[command(flatten)]
    pub submit: SubmitArgs,
}

/// Which jobs to list.
#[derive(Debug, ClapArgs)]
pub struct LsArgs {
    /// Only those in this state: queued, running, finished
    #[arg(long)]
    pub state: Option<String>,
    /// Only those of this name
    #[arg(long)]
    pub name: Option<String>,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which log, and how.
#[derive(Debug, ClapArgs)]
pub struct LogsArgs {
    /// The job's id
    pub id: String,
    /// Go on until the job has ended
    #[arg(short, long)]
    pub follow: bool,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which outputs, and where to.
#[derive(Debug, ClapArgs)]
pub struct FetchArgs {
    /// The job's id
    pub id: String,
    /// The folder
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Where the group is.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// How to check this machine.
#[derive(Debug, ClapArgs)]
pub struct DoctorArgs {
    /// The data folder that a node would use
    #[arg(long, env = "WORKRS_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The space for job disks that a node would use
    #[arg(long, env = "WORKRS_DISK_POOL", value_name = "SIZE")]
    pub disk_pool: Option<String>,
    /// What a node would run jobs with: auto, runc or docker
    #[arg(long, env = "WORKRS_ENGINE", default_value = "auto")]
    pub engine: String,
    /// Where Docker's daemon listens; /var/run/docker.sock by default
    #[arg(long, env = "DOCKER_HOST", value_name = "PATH")]
    pub docker_socket: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What to plan.
#[derive(Debug, ClapArgs)]
pub struct PlanArgs {
    /// How long the job runs if nothing happens
    #[arg(long, value_name = "DURATION")]
    pub work: Option<String>,
    /// Mean time between faults of its node
    #[arg(long, value_name = "DURATION")]
    pub mtbf: Option<String>,
    /// How long it stands still for a checkpoint
    #[arg(long, value_name = "DURATION")]
    pub cost: Option<String>,
    /// How long a restore takes
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub restore: String,
    /// How long it takes from a fault to the begin of the restore
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub detect: String,
    /// How long it takes from the end of the standstill until the checkpoint is of use
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub latency: String,
    /// Also draw the expected time against the number of checkpoints into this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Instead, simulate how --checkpoint auto does over a grid of settings (takes a while)
    #[arg(long)]
    pub grid: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What to measure.
#[derive(Debug, ClapArgs)]
pub struct ExperimentArgs {
    /// Shortens the 300 s of work and the times between faults alike
    #[arg(long, default_value_t = 1.0)]
    pub scale: f64,
    /// Runs of each plan under each fault rate
    #[arg(long, default_value_t = 5)]
    pub repeat: u32,
    /// Faults are drawn from this
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Faults a second, before they are scaled; the paper's by default
    #[arg(long, value_delimiter = ',', value_name = "RATE,…")]
    pub rates: Vec<f64>,
    /// Some of none, paper, best, 15, auto; all by default
    #[arg(long, value_delimiter = ',', value_name = "PLAN,…")]
    pub plans: Vec<String>,
    /// When a job is given up; after 100 times its work by default
    #[arg(long, value_name = "DURATION")]
    pub give_up: Option<String>,
    /// Where results go; an experiment that was stopped goes on from what is there
    #[arg(long, value_name = "DIR", default_value = "workrs-experiment")]
    pub out: PathBuf,
    /// Where the nodes have their data
    #[arg(long, value_name = "DIR", default_value = "/var/tmp/workrs-experiment")]
    pub data_dir: PathBuf,
    /// Print the results as JSON
    #[arg(long)]
    pub json: bool,
    /// Further options of the nodes
    #[arg(last = true, value_name = "OPTIONS OF UP", default_values_t = ["--disk-pool".to_owned(), "512M".to_owned()])]
    pub node_options: Vec<String>,
}
