//! Healthy observers beside one that stopped reading, in pairs of rounds.

use super::client::Wire;
use super::fanout::watched;
use super::report::{Report, Target};
use super::{Ground, median};

const OBSERVERS: u64 = 20;
const MIB: f64 = 1024.0 * 1024.0;

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    for wire in Wire::ALL {
        pairs(ground, report, wire).await?;
    }
    Ok(())
}

async fn pairs(ground: &Ground, report: &mut Report, wire: Wire) -> anyhow::Result<()> {
    let rounds = match ground.quick {
        true => 1,
        false => ground.rounds.max(9),
    };
    let (mut ratios, mut grown) = (vec![], vec![]);
    for round in 0..rounds {
        // The order changes, so that what drifts does not count for one side.
        let first = round % 2;
        let mut rates = [0.0; 2];
        for stopped in [first, 1 - first] {
            let before = ground.runtime.memory();
            let events = ground.amount(50_000);
            let round = watched(ground, wire, OBSERVERS, events, stopped as u64).await?;
            rates[stopped] = round.deliveries_per_sec;
            if stopped == 1 {
                grown.push((ground.runtime.memory() - before) / MIB);
            }
        }
        ratios.push(rates[1] / rates[0]);
    }
    let spread = ratios.iter().copied().fold(f64::MIN, f64::max)
        - ratios.iter().copied().fold(f64::MAX, f64::min);
    let (rate, grown) = (median(&mut ratios), median(&mut grown));
    let name = format!("others' rate beside a stopped observer, {wire}");
    report.add(name, "× alone", rate, None, Target::AtLeast(0.9));
    let name = format!("spread of those pairs, {wire}");
    report.add(name, "× alone", spread, None, Target::None);
    let name = format!("memory for a stopped observer, {wire}");
    report.add(name, "MiB", grown, None, Target::AtMost(16.0));
    Ok(())
}
