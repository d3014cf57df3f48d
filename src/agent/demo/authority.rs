//! Demonstration agents that ask before they act.

use serde::Deserialize;
use serde_json::json;

use super::{input, rest};
use crate::job::{AgentDirectory, Delegation, JobContext};
use crate::protocol::{ErrorCode, EventBody, Failure, Outcome};

pub(super) fn register(agents: &mut AgentDirectory) -> Result<(), String> {
    agents
        .register("toolbox", "1.0.0", toolbox)?
        .register("spender", "1.0.0", spender)?
        .register("delegator", "1.0.0", delegator)?;
    Ok(())
}

/// Asks for each operation, says that it does it, and what came of it.
async fn toolbox(job: JobContext) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Input {
        ops: Vec<Op>,
        #[serde(default)]
        delay_ms: u64,
    }
    #[derive(Deserialize)]
    struct Op {
        capability: String,
        target: String,
    }
    let Input { ops, delay_ms } = input(&job)?;
    let (mut allowed, mut refused) = (0, Vec::new());
    for (index, Op { capability, target }) in ops.into_iter().enumerate() {
        rest(&job, delay_ms).await?;
        let call_id = format!("op-{}", index + 1);
        job.emit(EventBody::ToolCall {
            tool: capability.clone(),
            call_id: call_id.clone(),
            args_json: Some(json!({ "target": target }).to_string()),
        })
        .await?;
        // A refusal is in the stream already, as the result of the call.
        match job.authorize(&call_id, &capability, &target).await {
            Ok(()) => {
                allowed += 1;
                let result = Ok(json!({ "done": target }).to_string());
                job.emit(EventBody::ToolResult { call_id, result }).await?;
            }
            Err(failure) => refused.push(json!({
                "op": index + 1, "code": failure.code, "message": failure.message,
            })),
        }
    }
    Ok(json!({ "allowed": allowed, "refused": refused }).to_string())
}

/// Spends step by step; stops gracefully once it is told that nothing is left.
async fn spender(job: JobContext) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Input {
        currency: String,
        per_step: f64,
        steps: u64,
        #[serde(default)]
        delay_ms: u64,
    }
    let input: Input = input(&job)?;
    for step in 1..=input.steps {
        rest(&job, input.delay_ms).await?;
        let call_id = format!("step-{step}");
        let asked = job.authorize(&call_id, "tool.call", "spend").await;
        match asked {
            Ok(()) => {}
            Err(failure) if failure.code == ErrorCode::BudgetExhausted => {
                return Ok(json!({ "steps": step - 1, "stopped": "budget" }).to_string());
            }
            Err(failure) => return Err(failure),
        }
        job.emit(EventBody::Metric {
            name: "cost.step".into(),
            value: input.per_step,
            unit: Some(input.currency.clone()),
            dimensions: Vec::new(),
        })
        .await?;
    }
    Ok(json!({ "steps": input.steps }).to_string())
}

/// Delegates, all at once, and waits for all of it.
async fn delegator(job: JobContext) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Input {
        agent: String,
        #[serde(default)]
        input: serde_json::Value,
        #[serde(default)]
        lease_request: serde_json::Map<String, serde_json::Value>,
        #[serde(default = "once")]
        times: u64,
    }
    fn once() -> u64 {
        1
    }
    let asked: Input = input(&job)?;
    let children = (1..=asked.times).map(|number| {
        let delegation = Delegation {
            delegate_id: format!("child-{number}"),
            agent: asked.agent.clone(),
            input_json: asked.input.to_string(),
            lease_request_json: serde_json::Value::from(asked.lease_request.clone()).to_string(),
            expires_at: None,
        };
        let job = job.clone();
        async move {
            let child = match job.delegate(delegation).await {
                Ok(child) => child,
                Err(failure) => {
                    return json!({ "refused": failure.code, "message": failure.message });
                }
            };
            let ended = job.child_ended(&child).await;
            let outcome = ended.ok().and_then(|(_, outcome)| outcome);
            let status = outcome.as_ref().map(Outcome::status);
            let result = match outcome {
                Some(Outcome::Inline { result_json }) => serde_json::from_str(&result_json).ok(),
                _ => None::<serde_json::Value>,
            };
            json!({ "job_id": child.job_id, "status": status, "result": result })
        }
    });
    let ended = tokio::select! {
        ended = futures_util::future::join_all(children) => ended,
        () = job.cancelled() => return Err(Failure::new(ErrorCode::Cancelled, "cancelled")),
    };
    Ok(json!({ "children": ended }).to_string())
}
