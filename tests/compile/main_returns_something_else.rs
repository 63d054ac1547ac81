struct Client;

#[dcluster::main]
async fn main(client: Client) -> String {
    let _: Client = client;
    String::new()
}
