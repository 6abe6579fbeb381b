//! What is printed once the cluster is ready.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

const WIDTH: usize = 78;

/// How the user calls us about this cluster.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) program: String,
    /// Empty, or begins with a space.
    pub(super) options: String,
}

/// The line that scripts wait for; see the contract in `main.rs`.
pub(super) fn ready_line(took: Duration, resp: SocketAddr, rest: SocketAddr, data_dir: &Path) -> String {
    format!("ready in={:.1}s resp={resp} rest={rest} data-dir={}", took.as_secs_f64(), data_dir.display())
}

/// Lines to copy. Rules above and below but none at the sides, which would be copied as well.
pub(super) fn welcome(resp: SocketAddr, rest: SocketAddr, call: &Call, psql: &str, password: bool) -> String {
    let Call { program: tercet, options } = call;
    let (resp, rest) = (dial(resp), dial(rest));
    let mut redis = format!("redis-cli -p {}", resp.port());
    if resp.ip() != IpAddr::V4(Ipv4Addr::LOCALHOST) {
        redis = format!("redis-cli -h {} -p {}", resp.ip(), resp.port());
    }
    let mut curl = "curl".to_owned();
    if password {
        redis.push_str(" -a \"$TERCET_PASSWORD\"");
        curl.push_str(" -H \"Authorization: Bearer $TERCET_PASSWORD\"");
    }
    let sections: [(&str, Vec<String>); 4] = [
        ("Redis protocol", vec![format!("{redis} SET greeting hello"), format!("{redis} GET greeting")]),
        (
            "REST",
            vec![
                format!("{curl} http://{rest}/readyz"),
                format!("{curl} http://{rest}/api/kv/greeting"),
                format!("{curl} http://{rest}/metrics"),
            ],
        ),
        (
            "Kill a worker: clients notice nothing",
            vec![
                format!("{tercet} node kill w2{options}"),
                format!("{redis} GET greeting"),
                format!("{tercet} node start w2{options}"),
            ],
        ),
        (
            "Look",
            vec![
                format!("{tercet} status{options}"),
                format!("{tercet} node list{options}"),
                psql.to_owned(),
            ],
        ),
    ];
    let rule = "─".repeat(WIDTH);
    let mut out = format!("{rule}\n");
    for (title, lines) in sections {
        let _ = writeln!(out, "{title}");
        for line in lines {
            let _ = writeln!(out, "  {line}");
        }
    }
    let _ = write!(out, "{rule}\nCtrl-C stops the cluster; the next start finds the data again.");
    out
}

/// An address that listens everywhere is dialled on loopback.
pub(super) fn dial(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
        _ => address,
    }
}

/// How the user can call this program from where they are: by the name they used if the shell finds it, else by path.
pub(super) fn call(invoked_as: Option<&str>, exe: &Path, cwd: Option<&Path>) -> String {
    match invoked_as {
        Some(name) if !name.contains('/') => name.to_owned(),
        _ => {
            let relative =
                cwd.and_then(|cwd| exe.strip_prefix(cwd).ok()).filter(|path| path.components().count() > 1);
            quote(&relative.unwrap_or(exe).display().to_string())
        }
    }
}

/// For a POSIX shell.
pub(super) fn quote(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_is_as_the_contract_says() {
        let line = ready_line(
            Duration::from_millis(2_345),
            "127.0.0.1:6379".parse().unwrap(),
            "[::1]:8080".parse().unwrap(),
            Path::new("/a b"),
        );
        assert_eq!(line, "ready in=2.3s resp=127.0.0.1:6379 rest=[::1]:8080 data-dir=/a b");
    }

    #[test]
    fn lines_to_copy_work_from_where_the_user_is() {
        let call = |name, exe: &str, cwd: &str| call(name, Path::new(exe), Some(Path::new(cwd)));
        assert_eq!(call(Some("tercet"), "/usr/bin/tercet", "/home"), "tercet");
        assert_eq!(
            call(Some("target/release/tercet"), "/r/target/release/tercet", "/r"),
            "target/release/tercet"
        );
        assert_eq!(
            call(Some("/r/target/release/tercet"), "/r/target/release/tercet", "/x"),
            "/r/target/release/tercet"
        );
        assert_eq!(call(Some("./tercet"), "/my bin/tercet", "/my bin"), "'/my bin/tercet'");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }

    #[test]
    fn the_box_follows_ports_and_password() {
        let call = Call { program: "tercet".to_owned(), options: " --data-dir d".to_owned() };
        let text =
            welcome("0.0.0.0:7000".parse().unwrap(), "127.0.0.1:7001".parse().unwrap(), &call, "psql", true);
        for part in [
            "redis-cli -p 7000 -a",
            "http://127.0.0.1:7001/metrics",
            "tercet node kill w2 --data-dir d",
            "Bearer",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert!(!text.contains('│'));
    }
}
