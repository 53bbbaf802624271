"""The one place that talks to the model.

A model call is a *generation*: an append-only log of events that lives in this process. `Generate`
starts one and reads it; `WatchGeneration` reads it too. From the outside in:

    main         settings and wiring
    service      the servicer: check, translate, call, translate
    generations  the logs: who may read them, how long they are kept, who ends them
    calling      one generation from request to terminal event: attempts, retries, fallback
    attempt      one call to the provider, written into the log as it comes
    requests     canonical prompt to the provider's request            (pure)
    translation  the provider's events to generation events            (pure)
    retrying     what to do after an error                             (pure)
    sse          bytes to the provider's events                        (pure)
    provider     the Anthropic SDK: auth, typed errors
    transport    HTTP/2 under the SDK
"""
