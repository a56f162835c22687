"""The delivery feed: what a cluster serves to exchanges and auditors that pull (`tenor.exchange.v1.DeliveryFeed`)."""
