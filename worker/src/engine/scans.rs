//! One scan of the replica as calls to the store.

use crate::replica::{ScanJob, ScanResult, SummaryFold};
use crate::store::{Store, StoreError};

/// Does what the replica asks for. Also for a simulation that drives a replica over a store of its own.
pub async fn run(store: &dyn Store, job: ScanJob) -> Result<ScanResult, StoreError> {
    Ok(match job {
        ScanJob::Digest { partition, from, limit } => {
            ScanResult::Stretch(store.digest(partition, from, limit).await?)
        }
        ScanJob::Summary { partition, from } => {
            let mut fold = SummaryFold::new(from);
            while let Some((from, limit)) = fold.wants() {
                fold.add(&store.digest(partition, from, limit).await?);
            }
            ScanResult::Summed(fold.finish())
        }
        ScanJob::Look { partition, hashes } => ScanResult::Present(store.look(partition, hashes).await?),
        ScanJob::Fetch { partition, hashes } => {
            let keys = hashes.into_iter().map(|hash| (partition, hash)).collect();
            ScanResult::Rows(store.read(keys).await?)
        }
        ScanJob::Changes { since, limit } => ScanResult::Changed(store.changes(since, limit).await?),
        ScanJob::Remember { memory } => {
            store.remember(memory).await?;
            ScanResult::Remembered
        }
        ScanJob::Recall => ScanResult::Recalled(store.recall().await?),
    })
}
