//! What a live cluster exports is what `tercet_common::metrics` defines, all of it and nothing else.

use std::collections::BTreeSet;

use tercet_common::metrics::ALL;

use crate::support::http::{self, Rest};
use crate::support::load::{Load, Tolerance};
use crate::support::{alone, eventually};

/// Metrics that even this load does not bring about, with the reason.
const NOT_SEEN: &[(&str, &str)] = &[];

/// The families of a page, by their `# TYPE` lines and by their samples.
fn families(page: &str) -> BTreeSet<String> {
    let typed: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let samples = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    for sample in samples {
        let name = sample.split(['{', ' ']).next().unwrap_or_default();
        let family = ["_bucket", "_sum", "_count", ""].iter().find_map(|suffix| {
            let family = name.strip_suffix(suffix)?;
            typed.contains(family).then_some(family)
        });
        assert!(family.is_some(), "a sample of no family: {sample}");
    }
    typed.into_iter().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_cluster_exports_what_is_defined() {
    let cluster = alone().await;
    let mut load = Load::start(cluster.resp(), "metrics", 8, Tolerance::Nothing);
    load.proceed(300).await;
    cluster.node("kill", "w2").await;
    load.proceed(300).await;
    cluster.node("start", "w2").await;
    cluster.wait_until_whole().await;
    load.proceed(300).await;
    load.finish("metrics").await.verify(cluster.resp()).await;
    let mut client = cluster.client().await;
    client.command("SET metrics:expires v PX 1").await;
    eventually("it expires", async || {
        client.command("GET metrics:expires").await.to_string().eq("nil").then_some(())
    })
    .await;

    let mut seen = families(cluster.rest().get("/metrics").await.text());
    for worker in cluster.parts().await.into_iter().filter(|part| part.kind == "worker") {
        let address =
            worker.address.strip_prefix("http://").expect("an address").parse().expect("an address");
        let page = http::send(Rest::new(address).request(reqwest::Method::GET, "/metrics")).await.unwrap();
        seen.extend(families(page.text()));
    }
    let defined: BTreeSet<String> = ALL.iter().map(|metric| metric.name.to_owned()).collect();
    let ours: BTreeSet<String> = seen.into_iter().filter(|name| name.starts_with("tercet_")).collect();
    let undefined: Vec<_> = ours.difference(&defined).collect();
    assert!(undefined.is_empty(), "exported, but not defined in tercet_common::metrics: {undefined:?}");
    let excused: BTreeSet<String> = NOT_SEEN.iter().map(|(name, _)| (*name).to_owned()).collect();
    let missing: Vec<_> = defined.difference(&ours).filter(|name| !excused.contains(*name)).collect();
    assert!(missing.is_empty(), "defined, but exported by no part: {missing:?}");
    let stale: Vec<_> = excused.intersection(&ours).collect();
    assert!(stale.is_empty(), "excused, but exported: {stale:?}");
}
