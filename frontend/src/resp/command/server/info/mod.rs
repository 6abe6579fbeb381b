//! INFO: `# Section`, then `name:value` lines, all ended by CRLF.

mod process;
mod sections;

use std::time::{Duration, Instant};

use super::ROW;
use crate::coordinator::KeyCount;
use crate::resp::command::{Args, CommandError, Flag, Handler, Pending, SessionContext, Spec};
use crate::resp::reply::Reply;
use sections::{Facts, SECTIONS, Section};

pub(super) const INFO: Spec = Spec {
    name: "info",
    arity: -1,
    flags: &[Flag::Loading, Flag::Stale],
    summary: "Returns information and statistics about the server.",
    since: "1.0.0",
    notes: "Of one frontend. The keyspace section counts keys over all workers; while they cannot be counted in time \
            it is empty.",
    run: Handler::Session(run),
    ..ROW
};

/// INFO answers health checks, so it does not wait long for a count that does not come.
const COUNT_TIMEOUT: Duration = Duration::from_secs(1);

fn run(context: &mut SessionContext<'_>, mut args: Args) -> Result<Pending, CommandError> {
    let wanted = choose(&args.rest().iter().map(|name| name.to_ascii_lowercase()).collect::<Vec<_>>());
    let gateway = context.gateway.clone();
    if !wanted.iter().any(|section| section.name == "keyspace") {
        let status = gateway.recent_status(Instant::now());
        let text = render(&wanted, &Facts { gateway: &gateway, status, keys: None });
        return Ok(Pending::Ready(Reply::Verbatim(text.into())));
    }
    Ok(Pending::later(async move {
        let count = tokio::time::timeout(COUNT_TIMEOUT, gateway.coordinator.count()).await;
        let keys: Option<KeyCount> = count.ok().and_then(Result::ok);
        let status = gateway.recent_status(Instant::now());
        let text = render(&wanted, &Facts { gateway: &gateway, status, keys });
        Ok(Reply::Verbatim(text.into()))
    }))
}

/// Sections in the order of the table, whatever the order of the names.
fn choose(names: &[Vec<u8>]) -> Vec<&'static Section> {
    let named = |name: &str| names.iter().any(|n| n == name.as_bytes());
    let (all, everything) = (named("all"), named("everything"));
    let default = names.is_empty() || named("default");
    let wanted = |section: &&Section| {
        everything || all && section.name != "modules" || default && section.by_default || named(section.name)
    };
    SECTIONS.iter().filter(wanted).collect()
}

fn render(wanted: &[&Section], facts: &Facts<'_>) -> String {
    let mut text = String::new();
    for section in wanted {
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        text.push_str(&format!("# {}\r\n", section.title));
        (section.write)(facts, &mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> Vec<&'static str> {
        let names: Vec<_> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        choose(&names).iter().map(|section| section.name).collect()
    }

    #[test]
    fn sections_are_chosen_as_in_redis() {
        assert_eq!(chosen(&["server"]), ["server"]);
        assert_eq!(chosen(&["cpu", "clients"]), ["clients", "cpu"]);
        assert_eq!(chosen(&["nonsense"]), [""; 0]);
        assert_eq!(chosen(&[]), chosen(&["default"]));
        let (default, all, everything) = (chosen(&[]), chosen(&["all"]), chosen(&["everything"]));
        assert!(default.contains(&"keyspace") && !default.contains(&"commandstats"));
        assert!(all.contains(&"commandstats") && !all.contains(&"modules"));
        assert_eq!(everything.len(), SECTIONS.len());
    }
}
