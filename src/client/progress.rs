//! A bar per function in the terminal, for a long wait.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::completed::AsCompleted;
use super::future::Status;

const STYLE: &str = "{prefix:>20} {wide_bar:.cyan/blue} {pos:>7}/{len} {elapsed_precise} {msg:.red}";

/// Waits until all are done, and shows how far they are if standard error is a terminal.
pub(super) async fn progress<T>(mut futures: AsCompleted<T>, counts: BTreeMap<String, u64>) {
    let terminal = std::io::stderr().is_terminal();
    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template(STYLE).unwrap_or_else(|_| ProgressStyle::default_bar());
    let mut bars: BTreeMap<String, (ProgressBar, u64)> = counts
        .into_iter()
        .filter(|_| terminal)
        .map(|(name, count)| {
            let bar = bars.add(ProgressBar::new(count)).with_style(style.clone()).with_prefix(name.clone());
            bar.tick();
            (name, (bar, 0))
        })
        .collect();
    while let Some(batch) = futures.next_batch().await {
        for future in batch {
            let reference = future.reference();
            let Some((bar, failed)) = bars.get_mut(reference.group()) else { continue };
            if reference.status() != Status::Finished {
                *failed += 1;
                bar.set_message(format!("{failed} failed"));
            }
            bar.inc(1);
        }
    }
    bars.values().for_each(|(bar, _)| bar.abandon());
}
