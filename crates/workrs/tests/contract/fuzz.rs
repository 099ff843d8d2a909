//! schemathesis against a real node.

use crate::{
    harness::{Images, Node},
    host, program, repository,
};

const TOKEN: &str = "a-secret";
/// Draws the same requests each time.
const SEED: &str = "20251125";
/// Requests of each kind for each operation.
const EXAMPLES: &str = "8";

#[test]
fn a_node_keeps_what_its_document_promises() {
    if !host::can_run() {
        return;
    }
    let Some(mut fuzzer) = program("schemathesis") else { return };
    // A node on loopback without a token would have one as soon as the fuzzer made one, and know nobody any more.
    let mut node = Node::new(&["--disk-pool", "4G"], Images::Shared).with_token(TOKEN);
    node.restart();
    let job = node.submit(&["--id", "finished", "--", "sh", "-c", "echo hello; echo kept > kept.txt"]);
    node.finished(&job);
    let output = fuzzer
        .arg("--config-file")
        .arg(repository("crates/workrs/tests/contract/schemathesis.toml"))
        .args(["run", &format!("{}/api/openapi.json", node.url()), "--seed", SEED, "--max-examples", EXAMPLES])
        .args(["--no-color", "--header", &format!("Authorization: Bearer {TOKEN}")])
        .current_dir(node.scratch())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}
