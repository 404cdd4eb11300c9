//! Our own programs as child processes: daemons that run until they are ended, and commands that
//! end by themselves.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, bail, ensure};

use crate::cluster::tail;
use crate::processes::{self, Signal};
use crate::scratch;
use crate::wait::try_wait_until;

/// How much of a daemon's log is printed when a test fails.
const LOG_LINES_SHOWN: usize = 60;

/// A program with its arguments and environment; can be started any number of times.
#[derive(Debug, Clone)]
pub struct Program {
    name: String,
    file: OsString,
    ours: bool,
    args: Vec<OsString>,
    envs: Vec<(String, OsString)>,
    dir: Option<PathBuf>,
}

impl Program {
    /// One of our own binaries, such as `landfall-node`, from `LANDFALL_BIN_DIR` or from the
    /// target directory that holds the running test.
    pub fn landfall(binary: &str) -> Self {
        Self::new(binary, true)
    }

    /// A program of the system, found by `PATH`.
    pub fn system(program: &str) -> Self {
        Self::new(program, false)
    }

    fn new(file: &str, ours: bool) -> Self {
        let (name, file) = (file.to_owned(), OsString::from(file));
        Self { name, file, ours, args: Vec::new(), envs: Vec::new(), dir: None }
    }

    /// What to call it in messages and in the name of its log, such as `ship a`.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((key.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs it in `dir` instead of the current directory.
    #[must_use]
    pub fn current_dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// Starts it as a daemon.
    ///
    /// # Panics
    /// When the program cannot be started; [`Program::try_start`] returns the error instead.
    #[track_caller]
    pub fn start(self) -> Daemon {
        match self.try_start() {
            Ok(daemon) => daemon,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Starts it as a daemon.
    pub fn try_start(self) -> anyhow::Result<Daemon> {
        let dir = scratch::fresh_dir(&self.name)?;
        let daemon = Daemon { program: self, dir, child: Mutex::new(State::Ended(None)) };
        daemon.launch()?;
        Ok(daemon)
    }

    /// Runs it to its end and returns everything it said. Past `timeout` it is killed and an error
    /// returned.
    pub fn run(self, timeout: Duration) -> anyhow::Result<Finished> {
        let dir = scratch::fresh_dir(&self.name)?;
        // Files, not pipes: a full pipe would stop the program, and nobody would be reading.
        let (out, err) = (dir.join("stdout"), dir.join("stderr"));
        let daemon = Daemon { program: self, dir, child: Mutex::new(State::Ended(None)) };
        daemon.launch_into(create(&out)?, create(&err)?)?;
        let status = daemon.try_wait_exit(timeout)?;
        let read = |path: &Path| -> anyhow::Result<String> {
            let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Finished { status, stdout: read(&out)?, stderr: read(&err)? })
    }

    fn command(&self) -> anyhow::Result<Command> {
        let mut command = if self.ours {
            let path = bin_dir()?.join(&self.file);
            ensure!(
                path.is_file(),
                "{} is not built: run cargo xtask test, or cargo build -p landfall-node -p \
                 landfall-hub --features landfall-node/planted-bugs",
                path.display()
            );
            Command::new(path)
        } else {
            Command::new(&self.file)
        };
        command.args(&self.args).envs(self.envs.iter().map(|(key, value)| (key, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        // Its own group: Ctrl-C is for us, and we end it ourselves.
        command.stdin(Stdio::null()).process_group(0);
        Ok(command)
    }
}

/// What a program said and how it ended; see [`Program::run`].
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// The standard output of a program that must have succeeded.
    ///
    /// # Panics
    /// When it did not; the message shows both outputs.
    #[track_caller]
    pub fn success(self) -> String {
        let Self { status, stdout, stderr } = self;
        assert!(status.success(), "ended with {status}\n{stdout}\n{stderr}");
        stdout
    }
}

#[derive(Debug)]
enum State {
    Running(Child),
    /// `None` before the first start.
    Ended(Option<ExitStatus>),
}

/// A running program. Standard output and standard error go to one log. Dropping it kills it; when
/// that happens in a panic, the end of the log is printed.
#[derive(Debug)]
pub struct Daemon {
    program: Program,
    dir: PathBuf,
    child: Mutex<State>,
}

impl Daemon {
    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// The process number, while it runs.
    pub fn pid(&self) -> Option<u32> {
        match &*self.state() {
            State::Running(child) => Some(child.id()),
            State::Ended(_) => None,
        }
    }

    /// The most memory it has had at once, by the kernel's count (`VmHWM`).
    ///
    /// # Panics
    /// When it does not run, or the kernel does not say.
    #[track_caller]
    pub fn peak_memory_bytes(&self) -> u64 {
        let pid = self.pid().unwrap_or_else(|| panic!("{} does not run", self.name()));
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or_else(|| panic!("no peak memory of {}", self.name())) << 10
    }

    /// Everything it wrote so far, over all its lives.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Lines of the log at WARN or ERROR that hold none of the `expected` texts.
    pub fn alarms(&self, expected: &[&str]) -> Vec<String> {
        let log = self.log();
        let alarms = log.lines().filter(|line| {
            line.split_whitespace().take(3).any(|word| word == "WARN" || word == "ERROR")
                && !expected.iter().any(|text| line.contains(text))
        });
        alarms.map(str::to_owned).collect()
    }

    /// Kills it with SIGKILL and waits until it is gone. Does nothing when it has ended.
    ///
    /// # Panics
    /// When the system does not let us.
    #[track_caller]
    pub fn kill9(&self) {
        if let Err(error) = self.try_kill9() {
            panic!("{error:#}");
        }
    }

    /// Sends a signal, such as [`Signal::Stop`]. Does nothing when it has ended.
    ///
    /// # Panics
    /// When the system does not let us.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let result = self.pid().map_or(Ok(()), |pid| processes::signal(&[pid], signal));
        if let Err(error) = result {
            panic!("signal {}: {error:#}", self.name());
        }
    }

    /// Asks it to end (SIGTERM) and returns at once; see [`Daemon::wait_exit`].
    ///
    /// # Panics
    /// When the system does not let us.
    #[track_caller]
    pub fn terminate(&self) {
        let result = self.pid().map_or(Ok(()), |pid| processes::signal(&[pid], Signal::Terminate));
        if let Err(error) = result {
            panic!("terminate {}: {error:#}", self.name());
        }
    }

    /// Waits for it to end by itself.
    ///
    /// # Panics
    /// When `timeout` passes first.
    #[track_caller]
    pub fn wait_exit(&self, timeout: Duration) -> ExitStatus {
        match self.try_wait_exit(timeout) {
            Ok(status) => status,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// As [`Daemon::wait_exit`], with an error instead of a panic.
    pub fn try_wait_exit(&self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        try_wait_until(&format!("{} to end", self.name()), timeout, || match self.exited() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        })
    }

    /// How it ended, or `None` while it runs.
    pub fn exited(&self) -> anyhow::Result<Option<ExitStatus>> {
        let mut state = self.state();
        let child = match &mut *state {
            State::Running(child) => child,
            State::Ended(status) => return Ok(*status),
        };
        let pid = child.id();
        let status = child.try_wait().with_context(|| format!("look at {}", self.name()))?;
        if status.is_some() {
            scratch::release(pid);
            *state = State::Ended(status);
        }
        Ok(status)
    }

    /// Starts the same program again after it ended; its log goes on.
    ///
    /// # Panics
    /// When it still runs or does not start.
    #[track_caller]
    pub fn start_again(&self) {
        if let Err(error) = self.try_start_again() {
            panic!("{error:#}");
        }
    }

    /// As [`Daemon::start_again`], with an error instead of a panic.
    pub fn try_start_again(&self) -> anyhow::Result<()> {
        ensure!(self.exited()?.is_some(), "{} still runs", self.name());
        self.launch()
    }

    fn launch(&self) -> anyhow::Result<()> {
        let path = self.log_path();
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("open {}", path.display()))?;
        self.launch_into(log.try_clone().context("share the log")?, log)
    }

    fn launch_into(&self, stdout: File, stderr: File) -> anyhow::Result<()> {
        let mut command = self.program.command()?;
        let child = command.stdout(stdout).stderr(stderr).spawn();
        let child = child.with_context(|| format!("start {}", self.name()))?;
        let pid = child.id();
        *self.state() = State::Running(child);
        scratch::guard(pid, Signal::Kill)
    }

    fn try_kill9(&self) -> anyhow::Result<()> {
        let mut state = self.state();
        let State::Running(child) = &mut *state else { return Ok(()) };
        let pid = child.id();
        child.kill().with_context(|| format!("kill {}", self.name()))?;
        let status = child.wait().with_context(|| format!("wait for {}", self.name()))?;
        scratch::release(pid);
        *state = State::Ended(Some(status));
        Ok(())
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of {}\n{}", self.name(), tail(&self.log(), LOG_LINES_SHOWN));
        }
        if let Err(error) = self.try_kill9() {
            eprintln!("{error:#}");
        }
        if !scratch::keep()
            && let Err(error) = fs::remove_dir_all(&self.dir)
        {
            eprintln!("{} could not be removed: {error}", self.dir.display());
        }
    }
}

/// The folder of our own binaries.
pub fn bin_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = env::var_os("LANDFALL_BIN_DIR").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir));
    }
    let exe = env::current_exe().context("find the running program")?;
    let Some(dir) = exe.parent() else { bail!("{} has no folder", exe.display()) };
    // Tests run in target/<profile>/deps, other programs in target/<profile>.
    let in_deps = dir.file_name().is_some_and(|name| name == "deps");
    Ok(dir.parent().filter(|_| in_deps).unwrap_or(dir).to_owned())
}

fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("create {}", path.display()))
}
