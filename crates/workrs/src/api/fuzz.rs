//! What fuzzers call of this module. Not an interface.

use std::collections::BTreeMap;

use workrs_core::{
    id::{JobId, Owner, Timestamp},
    job::JobRecord,
};

use super::{
    JobView, Program, SubmitRequest,
    program::Script,
    submit::{merge, parse_json},
};

/// A submit as it comes in a form, parts separated by zero bytes: the JSON of `spec`, then the name of the script, its first
/// bytes, and texts as `FIELD=VALUE`. What is accepted can be shown, and comes out again as it went in.
pub fn submit(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let spec = parts.next().unwrap_or_default();
    let request = if spec.is_empty() { Ok(SubmitRequest::default()) } else { parse_json(spec) };
    let Ok(request) = request else { return };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let name = parts.next().map(text).unwrap_or_default();
    let head = parts.next().unwrap_or_default().to_vec();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for part in parts {
        let part = text(part);
        let (field, value) = part.split_once('=').unwrap_or((&part, ""));
        texts.entry(field.to_owned()).or_default().push(value.to_owned());
    }
    let Ok(request) = merge(request, texts) else { return };
    let script = (!name.is_empty()).then_some(Script { name, head });
    let Ok(program) = Program::new(&request, script.as_ref(), false, None) else { return };
    let Ok(spec) = request.resolve(program) else { return };
    assert_eq!(spec.validate(), Ok(()));
    let (Ok(id), Ok(owner)) = (JobId::new("j"), Owner::new("o")) else { return };
    let record = JobRecord::submitted(id, owner, spec, None, Timestamp::from_millis(0));
    let written = serde_json::to_vec(&record).expect("what is accepted can be written");
    assert_eq!(serde_json::from_slice::<JobRecord>(&written).expect("and read"), record);
    let _shown = JobView::from(&record);
}
