#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| workrs::fuzzing::run("keys", data));
