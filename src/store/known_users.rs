//! `known_tokens.csv`: the users of a cluster with token authentication.
//!
//! A line is `token,user,uid[,"groups"]`, as Kubernetes reads it.

use crate::base::secret::Secret;

/// The name of the file, below `credentials`.
pub(crate) const FILE: &str = "known_tokens.csv";

/// The token of a user, by its exact name.
pub(crate) fn token_of(text: &str, user: &str) -> Option<Secret> {
    text.lines().find_map(|line| {
        let mut fields = line.split(',');
        let token = fields.next()?.trim();
        (fields.next()?.trim() == user && !token.is_empty()).then(|| Secret::new(token))
    })
}

/// The file's text with this administrator's token in place of any other.
pub(crate) fn with_admin_token(text: &str, token: &Secret) -> String {
    let mut lines: String = text
        .lines()
        .filter(|line| line.split(',').nth(1).map(str::trim) != Some("admin"))
        .map(|line| format!("{line}\n"))
        .collect();
    lines.push_str(&format!(
        "{},admin,admin,\"system:masters\"\n",
        token.expose()
    ));
    lines
}

/// The file's text with a line for the kubelet of a node.
pub(crate) fn with_kubelet(text: &str, token: &Secret, node: &str) -> String {
    let separator = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!(
        "{text}{separator}{},system:node:{node},kubelet-{node},\"system:nodes\"\n",
        token.expose()
    )
}

/// The file's text without the line of the kubelet of this node, by its exact name.
pub(crate) fn without_kubelet(text: &str, node: &str) -> String {
    let user = format!("system:node:{node}");
    text.split_inclusive('\n')
        .filter(|line| line.split(',').nth(1).map(str::trim) != Some(user.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "t1,admin,admin,\"system:masters\"\nt2,system:node:n10,kubelet-10,\"system:nodes\"\nt3,system:kube-proxy,kube-proxy\n";

    #[test]
    fn a_name_that_begins_like_another_is_another() {
        assert_eq!(token_of(FILE, "system:node:n1"), None);
        assert_eq!(token_of(FILE, "system:node:n10").unwrap().expose(), "t2");
    }

    #[test]
    fn a_kubelet_goes_and_one_whose_name_begins_like_it_stays() {
        let text = with_kubelet(FILE, &Secret::new("t4"), "n1");
        assert_eq!(without_kubelet(&text, "n1"), FILE);
        assert_eq!(without_kubelet(FILE, "n1"), FILE);
    }

    #[test]
    fn the_administrator_is_replaced_and_everybody_else_stays() {
        let text = with_admin_token(FILE, &Secret::new("t9"));
        assert_eq!(token_of(&text, "admin").unwrap().expose(), "t9");
        assert_eq!(token_of(&text, "system:kube-proxy").unwrap().expose(), "t3");
        assert!(!text.contains("t1,"));
    }

    #[test]
    fn a_missing_final_newline_loses_no_user() {
        let text = with_kubelet(FILE.trim_end(), &Secret::new("t4"), "n2");
        assert_eq!(token_of(&text, "system:kube-proxy").unwrap().expose(), "t3");
        assert_eq!(token_of(&text, "system:node:n2").unwrap().expose(), "t4");
    }
}
