//! The jobs that are killed: what each is, and what an uninterrupted run of it brings.
#![allow(dead_code, reason = "each of the test programs that share this uses a part")]

use std::{collections::BTreeMap, fmt::Write, fs, path::Path, process::Command};

use crate::{
    harness::Node,
    host::has_program,
    tools::{program, read_tree},
};

/// How long a job takes and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Seconds that it pauses each step.
    pub pause: f64,
    pub steps: u32,
    /// Held by the job whose kind is to hold much.
    pub megabytes: u32,
}

/// Twice as long as five deaths take on a busy machine.
const LONG: Pace = Pace { pause: 0.1, steps: 900, megabytes: 300 };
/// Source files of the compiler run, and functions in each.
const SOURCES: u32 = 40;
const FUNCTIONS: u32 = 300;

/// What a job printed and the files that it left.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub log: String,
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Every line is there once and in its place, in the log and in the files.
pub fn check_same(name: &str, run: &Run, expected: &Run) {
    let lines = run.log.lines().zip(expected.log.lines()).enumerate();
    if let Some((number, (got, wanted))) = lines.into_iter().find(|(_, (got, wanted))| got != wanted) {
        panic!("{name}: line {number} of the log is {got:?} instead of {wanted:?}");
    }
    assert_eq!(run.log.len(), expected.log.len(), "{name}: the log has another length");
    assert!(run.files.keys().eq(expected.files.keys()), "{name}: other files: {:?}", run.files.keys());
    assert!(run.files == expected.files, "{name}: a file has other contents");
}

/// A job to be killed.
pub struct Program {
    pub name: &'static str,
    /// What runs it, in a folder that has all of `inputs`.
    command: Vec<String>,
    inputs: Vec<String>,
    /// Files to be compared.
    outputs: &'static str,
    options: &'static [&'static str],
    pace: Pace,
    /// What an uninterrupted run brings; `None` if that is found out by one.
    known: Option<Run>,
}

impl Program {
    fn new(name: &'static str, command: &[&str], inputs: &[&str], outputs: &'static str) -> Self {
        let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        Self { name, command: texts(command), inputs: texts(inputs), outputs, options: &[], pace: LONG, known: None }
    }

    /// With further options for `submit`, in place of those that it has.
    pub fn with(self, options: &'static [&'static str]) -> Self {
        Self { options, ..self }
    }

    /// The same program at another pace.
    pub fn at(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    fn environment(&self, pause: f64) -> [String; 4] {
        let Pace { steps, megabytes, .. } = self.pace;
        let long_pause = pause * f64::from(steps / SOURCES);
        [
            format!("STEPS={steps}"),
            format!("PAUSE={pause}"),
            format!("LONG_PAUSE={long_pause:.3}"),
            format!("MEGABYTES={megabytes}"),
        ]
    }

    /// Hands it over.
    pub fn submit(&self, node: &Node, checkpoint: &str) -> String {
        node.submit(&self.arguments(checkpoint).iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What `submit` is told.
    pub fn arguments(&self, checkpoint: &str) -> Vec<String> {
        let environment = self.environment(self.pace.pause);
        let mut arguments = vec!["--name", self.name, "--checkpoint", checkpoint, "--output", self.outputs];
        arguments.extend(environment.iter().flat_map(|pair| ["--env", pair]));
        arguments.extend(self.inputs.iter().flat_map(|input| ["--input", input]));
        arguments.extend(self.options);
        arguments.push("--");
        arguments.extend(self.command.iter().map(String::as_str));
        arguments.into_iter().map(str::to_owned).collect()
    }

    /// What it brings when nothing interrupts it, found out by running it here without pauses.
    pub fn uninterrupted(&self, scratch: &Path) -> Run {
        if let Some(Run { log, files }) = &self.known {
            return Run { log: log.clone(), files: files.clone() };
        }
        let folder = scratch.join(format!("{}-{}", self.name, self.pace.steps));
        fs::create_dir(&folder).unwrap();
        for input in &self.inputs {
            fs::copy(input, folder.join(Path::new(input).file_name().unwrap())).unwrap();
        }
        let environment = self.environment(0.0);
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).current_dir(&folder).env("PATH", "/usr/bin:/bin");
        command.envs(environment.iter().filter_map(|pair| pair.split_once('=')));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        let mut files = read_tree(&folder);
        files.retain(|path, _| path == self.outputs);
        Run { log: String::from_utf8(output.stdout).unwrap(), files }
    }
}

/// Prints numbers and writes them to a file.
pub fn count() -> Program {
    python("count", "count.py", "lines")
}

/// A pipe of three processes.
pub fn pipeline() -> Program {
    Program::new("pipeline", &["sh", "pipeline.sh"], &[&program("pipeline.sh")], "lines")
}

/// Threads that wait for each other.
pub fn threads() -> Program {
    python("threads", "threads.py", "lines")
}

/// Random content that changes.
pub fn memory() -> Program {
    python("memory", "memory.py", "none")
}

/// Two databases.
pub fn sqlite() -> Program {
    python("sqlite", "sqlite.py", "none").with(&["--disk", "64M"])
}

/// Processes that come and go.
pub fn children() -> Program {
    python("children", "children.py", "total")
}

/// Processes that talk over sockets.
pub fn sockets() -> Program {
    python("sockets", "sockets.py", "none")
}

fn python(name: &'static str, file: &str, outputs: &'static str) -> Program {
    Program::new(name, &["python3", file], &[&program(file)], outputs)
}

/// All that this machine can run, and the names of those that it cannot. Programs are built in `scratch`.
pub fn all(scratch: &Path) -> (Vec<Program>, Vec<&'static str>) {
    let mut all = vec![
        count(),
        pipeline(),
        threads(),
        memory(),
        python("files", "files.py", "none").with(&["--disk", "256M"]),
        sqlite(),
        children(),
        sockets(),
    ];
    let mut missing = Vec::new();
    let mut add = |needs: &'static str, make: &dyn Fn() -> Vec<Program>| {
        if has_program(needs) { all.extend(make()) } else { missing.push(needs) }
    };
    add("gcc", &|| vec![pthreads(scratch), compiler(scratch)]);
    add("node", &|| vec![Program::new("node-js", &["node", "count.js"], &[&program("count.js")], "lines")]);
    add("java", &|| {
        let java = Program::new("java", &["java", "Count.java"], &[&program("Count.java")], "lines");
        vec![java.with(&["--memory", "768M", "--disk", "64M"])]
    });
    (all, missing)
}

/// A program of threads in C, handed over as it is.
fn pthreads(scratch: &Path) -> Program {
    let built = scratch.join("pthreads-program");
    let built = built.to_str().unwrap();
    let status = Command::new("gcc").args(["-O1", "-pthread", "-o", built, &program("threads.c")]).status().unwrap();
    assert!(status.success());
    Program::new("pthreads", &["./pthreads-program"], &[built], "lines")
}

/// A compiler run over many files, and what the program that it makes must print.
fn compiler(scratch: &Path) -> Program {
    let folder = scratch.join("src");
    fs::create_dir(&folder).unwrap();
    let (mut log, mut value) = (String::new(), 1u32);
    let (mut declarations, mut calls) = (String::new(), String::new());
    for file in 0..SOURCES {
        let mut source = String::new();
        for function in 0..FUNCTIONS {
            writeln!(
                source,
                "unsigned f{file}_{function}(unsigned x) {{ unsigned end = (x & 7) + {function}; \
                 for (unsigned k = 0; k < end; k++) x = x * 1664525u + (k & 3 ? {file}u : {function}u); return x; }}"
            )
            .unwrap();
            writeln!(declarations, "unsigned f{file}_{function}(unsigned);").unwrap();
            writeln!(calls, "x = f{file}_{function}(x);").unwrap();
            for k in 0..(value & 7) + function {
                let added = if k & 3 == 0 { function } else { file };
                value = value.wrapping_mul(1_664_525).wrapping_add(added);
            }
        }
        fs::write(folder.join(format!("a{file:02}.c")), source).unwrap();
        writeln!(log, "compiled src/a{file:02}.c").unwrap();
    }
    let main = format!(
        "#include <stdio.h>\n{declarations}int main(void) {{ unsigned x = 1; {calls} printf(\"%u\\n\", x); return 0; }}\n"
    );
    fs::write(folder.join("main.c"), main).unwrap();
    writeln!(log, "compiled src/main.c\n{value}").unwrap();
    let files = [("result".to_owned(), format!("{value}\n").into_bytes())].into();
    let script = program("compile.sh");
    let program = Program::new("compiler", &["sh", "compile.sh"], &[&script, folder.to_str().unwrap()], "result");
    Program { known: Some(Run { log, files }), ..program }.with(&["--disk", "64M"])
}
