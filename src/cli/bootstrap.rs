//! `syncd bootstrap`: forming a cluster although the hosts are not as they should be.

use crate::cli::args::Bootstrap;
use crate::cli::ask::agreed;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Output, plain};
use crate::daemon::control::BootstrapOrder;

/// Orders it of the daemon and says what came of it.
pub(super) async fn bootstrap(
    client: &Client,
    args: &Bootstrap,
    output: &mut Output,
) -> Result<Exit, Failure> {
    if args.new {
        output.write(
            "A new cluster is formed of all listed voters, as at their very first start. The marks of the former\n\
             membership are laid aside in each root (.syncd becomes .syncd.foreign-1); no content is touched. History\n\
             begins anew. If a data folder of the former cluster is still to be had, give it back instead.\n",
        )?;
        if !agreed(output, args.yes, "Form a new cluster?")? {
            output.write("Nothing was changed.\n")?;
            return Ok(Exit::Degraded);
        }
    }
    let order = BootstrapOrder { without: args.without.iter().cloned().collect(), anew: args.new };
    let said: String = client.post("/bootstrap", &order).await?;
    output.write(&format!("{}\n", plain(&said)))?;
    Ok(Exit::Ok)
}
