//! A fenced client: every write passes the fence right before it leaves, whoever makes it.
//!
//! It is in the client and not beside each call, so that no write can be added that forgets it. Reads and watches pass:
//! a controller that stands by keeps its stores warm with them.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::Either;
use http::{Method, Request};
use tower::{BoxError, Layer, Service};

use crate::leadership::fence::Fence;

/// Puts a fence in front of a service.
#[derive(Clone, Debug)]
pub struct FenceLayer(pub Fence);

/// A service behind a fence.
#[derive(Clone, Debug)]
pub struct Fenced<S> {
    inner: S,
    fence: Fence,
}

impl<S> Layer<S> for FenceLayer {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        let fence = self.0.clone();
        Fenced { inner, fence }
    }
}

impl<S, B> Service<Request<B>> for Fenced<S>
where
    S: Service<Request<B>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        match self.fence.check() {
            Err(why) if !reads => Either::Right(ready(Err(why.into()))),
            Ok(()) | Err(_) => Either::Left(self.inner.call(request)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn reads_pass_a_closed_fence_and_writes_do_not() {
        let fence = Fence::closed(|| Duration::from_secs(5));
        let server = tower::service_fn(|request: Request<()>| async move {
            Ok::<_, BoxError>(request.method().clone())
        });
        let client = FenceLayer(fence.clone()).layer(server);
        let send = |method: Method| {
            let request = Request::builder().method(method).body(()).unwrap();
            client.clone().oneshot(request)
        };
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            assert!(send(method.clone()).await.is_err(), "{method}");
        }
        assert!(send(Method::GET).await.is_ok());
        fence.move_to(Duration::from_secs(6));
        assert!(send(Method::DELETE).await.is_ok());
    }
}
