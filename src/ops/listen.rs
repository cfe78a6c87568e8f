//! One way to listen for every port of every process.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use tokio::net::TcpListener;

/// Listens on `address`. Where it is `[::]` and this machine has no IPv6, listens on `0.0.0.0` instead.
///
/// # Errors
/// What the system says of the address.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let error = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    let Some(instead) = instead(address, &error) else {
        return Err(error);
    };
    let listener = TcpListener::bind(instead).await?;
    tracing::info!(%address, %instead, "no IPv6 here, listening on IPv4");
    Ok(listener)
}

/// The address to listen on when `address` was refused with this error; `None` where no other address means the same.
fn instead(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    // The first when the kernel has no IPv6 (ipv6.disable=1), the second when no interface may have an address of it.
    let no_ipv6 = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    let error = Errno::from_io_error(error)?;
    (address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && no_ipv6.contains(&error))
        .then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_a_machine_without_ipv6_is_every_address_of_ipv4() {
        let cases = [
            ("[::]:8080", Errno::AFNOSUPPORT, Some("0.0.0.0:8080")),
            ("[::]:0", Errno::ADDRNOTAVAIL, Some("0.0.0.0:0")),
            ("[::]:8080", Errno::ADDRINUSE, None),
            ("[::]:80", Errno::ACCESS, None),
            ("[::1]:8080", Errno::AFNOSUPPORT, None),
            ("[2001:db8::1]:8080", Errno::ADDRNOTAVAIL, None),
            ("0.0.0.0:8080", Errno::ADDRNOTAVAIL, None),
        ];
        for (address, error, expected) in cases {
            let found = instead(address.parse().unwrap(), &error.into());
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(found, expected, "{address}: {error}");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_an_error() {
        let taken = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let again = listen(taken.local_addr().unwrap()).await;
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
