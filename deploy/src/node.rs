//! `tercet node`: asks the supervisor of the local cluster to act on one of its parts.

use std::process::ExitCode;

use comfy_table::{Table, presets};

use crate::cli::{NodeAction, NodeArgs, NodeTarget};
use crate::up::control::{Answer, Request, ask};
use crate::up::datadir::DataDir;
use crate::up::part::{Action, PartStatus};

pub(crate) fn run(args: NodeArgs) -> anyhow::Result<ExitCode> {
    let (place, request, json) = match args.action {
        NodeAction::List { place, json } => (place, Request::List, json),
        NodeAction::Stop(target) => act(target, Action::Stop),
        NodeAction::Kill(target) => act(target, Action::Kill),
        NodeAction::Start(target) => act(target, Action::Start),
        NodeAction::Add { place } => (place, Request::Add, false),
    };
    let dir = DataDir::locate(place.data_dir.as_deref())?;
    let Some(running) = dir.running() else {
        eprintln!(
            "tercet: no cluster runs in {}: start it with `tercet up`, or name its directory with --data-dir",
            dir.root().display()
        );
        return Ok(ExitCode::from(crate::UNUSABLE));
    };
    match ask(&running.control, &request)? {
        Answer::Failed { error } => anyhow::bail!(error),
        Answer::Done { message } => println!("{message}"),
        Answer::Parts { parts } if json => println!("{}", serde_json::to_string_pretty(&parts)?),
        Answer::Parts { parts } => println!("{}", table(&parts)),
    }
    Ok(ExitCode::SUCCESS)
}

fn act(target: NodeTarget, action: Action) -> (crate::cli::PlaceArgs, Request, bool) {
    (target.place, Request::Act { action, id: target.id }, false)
}

fn table(parts: &[PartStatus]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_header(["id", "kind", "pid", "state", "address", "since"]);
    for part in parts {
        let state = match &part.detail {
            Some(detail) => format!("{} ({detail})", part.state.name()),
            None => part.state.name().to_owned(),
        };
        table.add_row([
            part.id.clone(),
            part.kind.name().to_owned(),
            part.pid.map_or_else(|| "–".to_owned(), |pid| pid.to_string()),
            state,
            part.address.clone(),
            format!("{} ago", crate::status::age(part.age_ms())),
        ]);
    }
    table
}
