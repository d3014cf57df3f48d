//! `grpc.health.v1.Health` on the admin port, for probes that speak gRPC: there it is
//! in plain text even when clients are to speak TLS.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::session::Sessions;

pub(super) fn service(sessions: Arc<Sessions>) -> HealthServer<impl Health> {
    HealthServer::new(Probed(sessions))
}

struct Probed(Arc<Sessions>);

#[tonic::async_trait]
impl Health for Probed {
    /// `liveness` is the process; `readiness`, like the whole, whether it takes work.
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let serving = match &*request.into_inner().service {
            "liveness" => true,
            "" | "readiness" => super::admin::not_ready(&self.0).is_none(),
            other => return Err(Status::not_found(format!("there is no service {other:?}"))),
        };
        let status = match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        Ok(Response::new(HealthCheckResponse {
            status: status.into(),
        }))
    }

    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(
            "ask again; clients can watch on their own port",
        ))
    }
}
