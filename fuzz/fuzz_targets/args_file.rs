//! Any content of a file of arguments: it is kept to the byte, but for the argument that changes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use microk8s::store::args_file::ArgsFile;

const KEY: &str = "--zz";

fuzz_target!(|content: &[u8]| {
    let file = ArgsFile::parse(content);
    assert_eq!(file.bytes(), content);
    let is_there = !content.windows(KEY.len()).all(|part| part != KEY.as_bytes());
    let mut set = file.clone();
    set.set(KEY, "1");
    if !is_there {
        assert!(set.bytes().starts_with(content));
    }
    let mut removed = file.clone();
    removed.remove(KEY);
    assert!(removed.get_all(KEY).is_empty());
    assert!(removed.bytes().len() <= content.len());
    if !is_there {
        assert_eq!(removed.bytes(), content);
    }
    file.to_command_line(&std::collections::HashMap::new());
});
