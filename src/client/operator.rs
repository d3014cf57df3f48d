//! What an operator asks of a runtime.

use secrecy::ExposeSecret;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Response, Status};

use super::{Error, Options};
use crate::wire::proto;
use crate::wire::proto::admin_service_client::AdminServiceClient;

/// Calls of `arcp.v1.AdminService`; cheap to clone.
#[derive(Clone)]
pub struct Operator {
    calls: AdminServiceClient<tonic::transport::Channel>,
    bearer: MetadataValue<Ascii>,
}

/// A page of a list, and the token of the next.
type Page<T> = Result<(Vec<T>, String), Error>;

impl Operator {
    pub async fn connect(options: &Options) -> Result<Self, Error> {
        let bearer = format!("Bearer {}", options.token.expose_secret());
        let bearer = bearer
            .parse()
            .map_err(|_| Error::Options("token: cannot be sent in a header".into()))?;
        let calls = AdminServiceClient::new(options.channel().await?);
        let calls = calls.max_decoding_message_size(usize::MAX);
        Ok(Self { calls, bearer })
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let bearer = self.bearer.clone();
        request.metadata_mut().insert("authorization", bearer);
        request
    }

    pub async fn overview(&mut self) -> Result<proto::GetOverviewResponse, Error> {
        let request = self.request(proto::GetOverviewRequest {});
        answer(self.calls.get_overview(request).await)
    }

    pub async fn sessions(
        &mut self,
        page_size: u32,
        page_token: String,
    ) -> Page<proto::LiveSession> {
        let request = self.request(proto::ListSessionsRequest {
            page_size,
            page_token,
        });
        let page = answer(self.calls.list_sessions(request).await)?;
        Ok((page.sessions, page.next_page_token))
    }

    pub async fn subscriptions(
        &mut self,
        session_id: &str,
        page_size: u32,
        page_token: String,
    ) -> Page<proto::Subscription> {
        let request = self.request(proto::ListSubscriptionsRequest {
            session_id: session_id.into(),
            page_size,
            page_token,
        });
        let page = answer(self.calls.list_subscriptions(request).await)?;
        Ok((page.subscriptions, page.next_page_token))
    }

    pub async fn jobs(&mut self, page_size: u32, page_token: String) -> Page<proto::LiveJob> {
        let request = self.request(proto::ListLiveJobsRequest {
            page_size,
            page_token,
        });
        let page = answer(self.calls.list_live_jobs(request).await)?;
        Ok((page.jobs, page.next_page_token))
    }

    pub async fn hosts(&mut self, page_size: u32, page_token: String) -> Page<proto::LiveHost> {
        let request = self.request(proto::ListHostsRequest {
            page_size,
            page_token,
        });
        let page = answer(self.calls.list_hosts(request).await)?;
        Ok((page.hosts, page.next_page_token))
    }
}

fn answer<M>(answered: Result<Response<M>, Status>) -> Result<M, Error> {
    answered.map(Response::into_inner).map_err(|status| {
        use tonic_types::StatusExt;
        let info = status.get_details_error_info();
        Error::Refused {
            code: info.map_or_else(|| format!("{:?}", status.code()), |info| info.reason),
            message: status.message().into(),
            retryable: status.get_details_retry_info().is_some(),
        }
    })
}
