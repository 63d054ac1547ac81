//! Answers to a client's questions, as JSON.

use serde_json::{Value, json};

use super::chronicle;
use super::hub::Hub;
use super::post::ClientPeer;
use crate::model::{ClientId, WorkerId};
use crate::topology;
use crate::wire::client::Query;
use crate::wire::worker::Shutdown;

impl Hub {
    /// The JSON that answers `query`, or why there is none.
    pub(super) fn answer(&self, client: ClientId, query: Query) -> Result<String, String> {
        let answer = match query {
            Query::Status => self.status(),
            Query::Topology => self.topology(),
            Query::Explain { key } => self.explain(&key)?,
            Query::Story { key } => self.story(&key)?,
            Query::WhoHas { futures } => {
                let holders = |future| self.core.who_has(client, future);
                json!(futures.into_iter().map(holders).collect::<Vec<_>>())
            }
            Query::HasWhat { workers } => self.has_what(workers),
            Query::Nbytes { futures } => {
                let nbytes = |future| self.core.nbytes(client, future);
                json!(futures.into_iter().map(nbytes).collect::<Vec<_>>())
            }
            Query::Stop { code } => {
                self.stop(Shutdown { reason: format!("stopped by {client}"), code });
                json!({ "stopping": true, "code": code })
            }
        };
        Ok(answer.to_string())
    }

    fn status(&self) -> Value {
        json!({
            "scheduler": {
                "address": self.address,
                "pid": std::process::id(),
                "host": topology::host_name(),
                "uptime_s": self.started.elapsed().as_secs_f64(),
                "version": env!("CARGO_PKG_VERSION"),
            },
            "workers": self.core.worker_summaries().iter().filter_map(|summary| self.worker(summary)).collect::<Vec<_>>(),
            "tasks": self.core.counts(),
            "totals": self.core.totals(),
            "clients": self.post.clients.iter().map(|(client, peer)| self.client(*client, peer)).collect::<Vec<_>>(),
        })
    }

    fn client(&self, client: ClientId, peer: &ClientPeer) -> Value {
        let absence = peer.session.absence(self.client_lease);
        json!({
            "id": client,
            "host": peer.remote.hello.host,
            "pid": peer.remote.hello.pid,
            "address": peer.remote.address.to_string(),
            "received_bytes": peer.session.received_bytes(),
            "away_s": absence.map(|absence| absence.away.as_secs_f64()),
            "lease_left_s": absence.map(|absence| absence.left.as_secs_f64()),
        })
    }

    fn worker(&self, summary: &crate::scheduler::core::WorkerSummary) -> Option<Value> {
        let peer = self.post.workers.get(&summary.id)?;
        let join = peer.join.as_ref()?;
        Some(json!({
            "id": summary.id,
            "rank": join.rank,
            "host": join.host,
            "pid": join.pid,
            "address": join.address,
            "threads": join.threads,
            "memory_bytes_max": join.memory_bytes_max,
            "assigned": summary.assigned,
            "backlog": summary.backlog,
            "running": peer.metrics.running,
            "queued": peer.metrics.queued,
            "values": summary.values,
            "held_bytes": summary.held_bytes,
            "resident_bytes": peer.metrics.resident_bytes,
            "managed_bytes": peer.metrics.managed_bytes,
            "managed_bytes_peak": peer.metrics.memory.managed_bytes_peak,
            "unmanaged_bytes": peer.metrics.memory.unmanaged_bytes,
            "arriving_bytes": peer.metrics.memory.arriving_bytes,
            "lent_bytes": peer.metrics.memory.lent_bytes,
            "spilled_bytes": peer.metrics.memory.spilled_bytes,
            "spilled_values": peer.metrics.memory.spilled_values,
            "spill_written_bytes": peer.metrics.memory.written_bytes,
            "spill_read_bytes": peer.metrics.memory.read_bytes,
            "spill_failing": peer.metrics.memory.is_disk_failing,
            "paused": summary.is_paused,
            "full": summary.is_full,
            "cpu_percent": peer.cpu_percent,
            "received": peer.metrics.received,
        }))
    }

    fn topology(&self) -> Value {
        let workers = self.post.workers.iter().filter_map(|(id, peer)| Some((*id, peer.join.as_ref()?)));
        let entry = |(id, join): (WorkerId, &crate::wire::worker::Join)| {
            let place = serde_json::from_str::<Value>(&join.place).unwrap_or(Value::Null);
            let (binding, machine) = (&place["binding"], &place["machine"]);
            json!({ "id": id, "rank": join.rank, "host": join.host, "binding": binding, "machine": machine })
        };
        let (binding, machine) = match &self.place {
            Some(place) => (Some(&place.binding), place.machine.as_ref()),
            None => (None, None),
        };
        json!({
            "scheduler": {
                "host": topology::host_name(),
                "pid": std::process::id(),
                "binding": binding,
                "machine": machine,
            },
            "workers": workers.map(entry).collect::<Vec<_>>(),
        })
    }

    /// Of the named workers, or of all: `[{"worker": 0, "values": [{"key": "Vec-1f0c…", "nbytes": 800}, …]}, …]`. A
    /// worker that is not there is left out.
    fn has_what(&self, workers: Vec<WorkerId>) -> Value {
        let all = || self.post.workers.keys().copied().collect();
        let workers: Vec<WorkerId> = if workers.is_empty() { all() } else { workers };
        let entry = |worker| Some(json!({ "worker": worker, "values": self.core.has_what(worker)? }));
        json!(workers.into_iter().filter_map(entry).collect::<Vec<_>>())
    }

    fn explain(&self, text: &str) -> Result<Value, String> {
        let key = self.core.resolve(text).ok_or_else(|| {
            format!("no task `{text}` is known; give the name, the key as printed, or the first digits of its hash")
        })?;
        let explanation = self.core.explain(key).ok_or_else(|| format!("task `{text}` was forgotten"))?;
        serde_json::to_value(explanation).map_err(|error| error.to_string())
    }

    /// What is known of a key and what happened to it, also if it was forgotten meanwhile.
    fn story(&self, text: &str) -> Result<Value, String> {
        let key = self.core.resolve(text).or_else(|| self.chronicle.resolve(text));
        let key = key.ok_or_else(|| {
            format!(
                "nothing is known of `{text}`: give the name, the key as printed, or the first digits of its hash; the \
                 last {} events are remembered",
                chronicle::EVENTS_MAX
            )
        })?;
        Ok(json!({
            "key": key.to_string(),
            "task": self.core.explain(key),
            "events": self.chronicle.of(key),
        }))
    }
}
