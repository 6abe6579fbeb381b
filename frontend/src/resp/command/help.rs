//! The HELP subcommand of every container, made from its rows.

use super::{CommandError, Pending, SessionContext};
use crate::resp::reply::Reply;

/// Redis's layout: a line of usage, then name and explanation of each subcommand.
pub(super) fn help(context: &SessionContext<'_>, container: &str) -> Result<Pending, CommandError> {
    let table = context.gateway.table;
    let name = container.to_ascii_uppercase();
    let mut lines = vec![format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:")];
    if let Some(entry) = table.find(container.as_bytes()) {
        for sub in entry.subcommands(table) {
            lines.push(sub.spec.name.to_ascii_uppercase());
            lines.push(format!("    {}", sub.spec.summary));
        }
    }
    Ok(Pending::Ready(Reply::Array(lines.into_iter().map(|line| Reply::Simple(line.into())).collect())))
}
