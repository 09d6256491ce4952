//! Files of the node.

use std::collections::HashMap;
use std::path::Path;

use crate::base::secret::Secret;
use crate::client::kubeconfig;
use crate::cluster::transaction;
use crate::model::launch_configuration::LaunchConfiguration;
use crate::store::args_file::ArgsFile;
use crate::store::token_file::line;
use crate::store::{dqlite, known_users, shell_words, traefik};

/// A file of arguments is kept to the byte, but for the argument that changes, and what was set is
/// there afterwards.
pub(super) fn args_file(content: &[u8]) {
    const KEY: &str = "--zz";
    let file = ArgsFile::parse(content);
    assert_eq!(file.bytes(), content);
    let is_named = content
        .windows(KEY.len())
        .any(|part| part == KEY.as_bytes());
    let mut set = file.clone();
    set.set(KEY, "1");
    assert_eq!(ArgsFile::parse(set.bytes()).get_all(KEY), ["1"]);
    let mut removed = file.clone();
    removed.remove(KEY);
    assert!(removed.get_all(KEY).is_empty());
    assert!(removed.bytes().len() <= content.len());
    if !is_named {
        assert!(set.bytes().starts_with(content));
        assert_eq!(removed.bytes(), content);
    }
    let mut changed = file.clone();
    let update = [(KEY.to_owned(), "2".to_owned())];
    changed.reconfigure(&update, &["--yy".to_owned()]);
    assert_eq!(changed.get_all(KEY), ["2"]);
    let again = changed.clone();
    changed.reconfigure(&update, &["--yy".to_owned()]);
    assert_eq!(changed.bytes(), again.bytes());
    file.to_command_line(&HashMap::new());
}

/// The lines of a token file are the same when it is read as it grows, in two pieces.
pub(super) fn token_file(input: &[u8]) {
    let (at, content) = match input {
        [high, low, content @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), content),
        _ => return,
    };
    let scan = |from: usize, to: usize, lines: &mut Vec<_>| {
        line::scan(&content[from..to], 7 + from as u64, |start, line| {
            lines.push((start, line.text.to_owned(), line.end, line.span.clone()));
        })
    };
    let mut whole = Vec::new();
    let end = scan(0, content.len(), &mut whole);
    assert!((7..=7 + content.len() as u64).contains(&end));
    let mut pieces = Vec::new();
    let so_far = scan(0, at.min(content.len()), &mut pieces);
    // A line that was not ended yet is looked at once more, and may be none by then.
    pieces.retain(|(start, ..)| *start < so_far);
    let rest = usize::try_from(so_far - 7).expect("it is a place in the content");
    scan(rest, content.len(), &mut pieces);
    assert_eq!(pieces, whole);
    for (start, text, _, span) in &whole {
        let start = usize::try_from(start - 7).expect("it is a place in the content");
        let raw = &content[start + span.start..start + span.end];
        // Blanks of Unicode may stand around it.
        assert!(raw.windows(text.len()).any(|part| part == text.as_bytes()));
    }
}

/// What was read of a journal can be undone once, and nothing that is done is undone again.
pub(super) fn journal(content: &[u8]) {
    transaction::fuzzing::journal(content);
}

/// What is written into YAML is read from it again.
pub(super) fn yaml(content: &[u8]) {
    // It says itself what of a file is no text.
    let _ = LaunchConfiguration::parse(content);
    let Ok(text) = std::str::from_utf8(content) else {
        return;
    };
    let _ = kubeconfig::access(&Secret::new(text), Path::new("/nowhere/client.config"));
    traefik::listen_address(text);
    traefik::provider_file(text);
    let _ = traefik::servers(text);
    let servers = ["10.99.0.11:16443", "[fd99::11]:16443"].map(str::to_owned);
    if let Ok(written) = traefik::with_servers(text, &servers) {
        assert_eq!(traefik::servers(&written), Ok(servers.to_vec()));
    }
    let lists = [dqlite::read_cluster(text), dqlite::read_shell_answer(text)];
    let alone = dqlite::read_info(text).map(|member| vec![member]);
    for members in lists.into_iter().chain([alone]).flatten() {
        // The addresses that this program writes are those of nodes.
        if members.iter().all(|member| member.ip().is_some()) {
            let written = dqlite::cluster_yaml(&members);
            assert_eq!(dqlite::read_cluster(&written).ok(), Some(members));
        }
    }
    let token = Secret::new("0123456789abcdef0123456789abcdef");
    let users = known_users::with_admin_token(text, &token);
    assert!(known_users::token_of(&users, "admin").is_some_and(|found| found == token));
    let users = known_users::without_kubelet(&known_users::with_kubelet(text, &token, "n2"), "n2");
    assert!(known_users::token_of(&users, "system:node:n2").is_none());
    shell_words::split(text, &HashMap::new());
}
