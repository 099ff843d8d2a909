//! The examples of docs/http-api.md: each block of shell or Python is run, in the order of the text, against a real node.
//! A block whose first line of the fence says `norun` needs what a test does not have, such as a registry on the network.

use std::{fs, process::Command};

use crate::{
    harness::{Images, Node},
    host, repository,
};

const TOKEN: &str = "a-secret";

/// A block of code and how it is run.
struct Block {
    language: &'static str,
    code: String,
    line: usize,
}

#[test]
fn what_the_manual_shows_works() {
    if !host::can_run() {
        return;
    }
    let manual = fs::read_to_string(repository("docs/http-api.md")).unwrap();
    let blocks = blocks(&manual);
    assert!(blocks.iter().filter(|block| block.language == "sh").count() > 5, "there are examples");
    let mut node = Node::new(&["--disk-pool", "3G", "--allow-drills"], Images::Shared).with_token(TOKEN);
    node.restart();
    let folder = node.scratch();
    // What each reader sends in a way of their own.
    fs::write(folder.join(".curlrc"), format!("header = \"Authorization: Bearer {TOKEN}\"\n")).unwrap();
    for (name, content) in FILES {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    for Block { language, code, line } in blocks {
        let mut command = match language {
            "sh" => Command::new("bash"),
            _ => Command::new("/usr/bin/python3"),
        };
        match language {
            "sh" => command.args(["-euo", "pipefail", "-c", &code]),
            _ => command.args(["-c", &code]),
        };
        command.env("NODE", node.url()).env("NODE_NAME", node.name()).env("NO_PROXY", "*");
        command.env("HOME", &folder).env("WORKRS_TOKEN", TOKEN).current_dir(&folder);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "docs/http-api.md:{line}: {code}\n{}\n{}", said[0], said[1]);
        // `curl` without --fail succeeds with a problem, too.
        let is_wanted = code.contains("# a problem");
        assert_eq!(said[0].contains("urn:workrs:problem:"), is_wanted, "docs/http-api.md:{line}: {code}\n{}", said[0]);
    }
}

/// What the examples hand over.
const FILES: &[(&str, &str)] = &[
    ("count.py", "for number in range(3):\n    print(number)\n"),
    (
        "sum.py",
        "import sys\nnumbers = [int(line) for line in open('data/numbers.txt')]\n\
         print(sys.argv[1], sum(numbers))\nopen('result.txt', 'w').write(f'{sum(numbers)}\\n')\n",
    ),
    ("data/numbers.txt", "1\n2\n3\n"),
];

fn blocks(manual: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = manual.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(fence) = line.strip_prefix("```") else { continue };
        let code: Vec<_> = lines.by_ref().map(|(_, line)| line).take_while(|line| !line.starts_with("```")).collect();
        let language = match fence {
            "sh" => "sh",
            "python" => "python",
            _ => continue,
        };
        blocks.push(Block { language, code: code.join("\n"), line: number + 1 });
    }
    blocks
}
