import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.Stream;

import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.serialization.SimpleStringEncoder;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.file.sink.FileSink;
import org.apache.flink.connector.file.src.FileSource;
import org.apache.flink.connector.file.src.reader.TextLineInputFormat;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/** J1 to J3 as DataStream jobs in one JVM: a line of standard input names a job, the answer is the number of its outputs. Arguments: folder of inputs, folder of outputs. */
public class Job {
    static final JsonFactory JSON = new JsonFactory();

    public static void main(String[] args) throws Exception {
        BufferedReader asked = new BufferedReader(new InputStreamReader(System.in));
        System.out.println("ready");
        int run = 0;
        for (String job; (job = asked.readLine()) != null; run++) {
            Path out = Path.of(args[1], "run-" + run);
            run(job, Path.of(args[0], job), out);
            long lines = 0;
            try (Stream<Path> files = Files.walk(out.resolve("sink"))) {
                for (Path file : (Iterable<Path>) files.filter(Files::isRegularFile)::iterator) {
                    try (Stream<String> all = Files.lines(file)) {
                        lines += all.count();
                    }
                }
            }
            System.out.println("outputs " + lines);
        }
    }

    static void run(String job, Path in, Path out) throws Exception {
        Configuration configuration = new Configuration();
        configuration.setString("execution.checkpointing.dir", out.resolve("checkpoints").toUri().toString());
        configuration.setString("pipeline.object-reuse", "true");
        configuration.setString("taskmanager.memory.network.max", "256mb");
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(2, configuration);
        env.enableCheckpointing(1000, CheckpointingMode.EXACTLY_ONCE);
        // One file for each thread.
        FileSource<String> source = FileSource
            .forRecordStreamFormat(new TextLineInputFormat(), new org.apache.flink.core.fs.Path(in.toUri()))
            .build();
        DataStream<String> lines = env.fromSource(source, WatermarkStrategy.noWatermarks(), "lines");
        DataStream<String> made = switch (job) {
            case "J1" -> lines.flatMap(Job::order).returns(Types.STRING);
            case "J2" -> lines
                .map(line -> {
                    int tab = line.indexOf('\t');
                    return Tuple2.of(line.substring(0, tab), number(line.substring(tab + 1), "cents"));
                })
                .returns(Types.TUPLE(Types.STRING, Types.LONG))
                .keyBy(payment -> payment.f0)
                .process(new Totals());
            default -> lines;
        };
        made.sinkTo(FileSink
            .forRowFormat(new org.apache.flink.core.fs.Path(out.resolve("sink").toUri()), new SimpleStringEncoder<String>())
            .build());
        env.execute(job);
    }

    static void order(String line, Collector<String> out) throws Exception {
        boolean order = false;
        String user = null;
        double amount = 0;
        long id = 0;
        try (JsonParser parser = JSON.createParser(line)) {
            parser.nextToken();
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                String field = parser.currentName();
                parser.nextToken();
                switch (field) {
                    case "kind" -> order = parser.getText().equals("order");
                    case "user" -> user = parser.getText();
                    case "amount" -> amount = parser.getDoubleValue();
                    case "id" -> id = parser.getLongValue();
                    default -> parser.skipChildren();
                }
            }
        }
        if (order) {
            out.collect("{\"id\":" + id + ",\"user\":\"" + user + "\",\"amount\":" + amount + "}");
        }
    }

    static long number(String json, String wanted) throws Exception {
        try (JsonParser parser = JSON.createParser(json)) {
            parser.nextToken();
            long found = 0;
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                boolean here = parser.currentName().equals(wanted);
                parser.nextToken();
                if (here) {
                    found = parser.getLongValue();
                } else {
                    parser.skipChildren();
                }
            }
            return found;
        }
    }

    static class Totals extends KeyedProcessFunction<String, Tuple2<String, Long>, String> {
        transient ValueState<Tuple2<Long, Long>> total;

        @Override
        public void open(OpenContext context) {
            total = getRuntimeContext().getState(new ValueStateDescriptor<>("total", Types.TUPLE(Types.LONG, Types.LONG)));
        }

        @Override
        public void processElement(Tuple2<String, Long> payment, Context context, Collector<String> out) throws Exception {
            Tuple2<Long, Long> before = total.value();
            Tuple2<Long, Long> now = before == null ? Tuple2.of(1L, payment.f1) : Tuple2.of(before.f0 + 1, before.f1 + payment.f1);
            total.update(now);
            out.collect(payment.f0 + "\t{\"count\":" + now.f0 + ",\"cents\":" + now.f1 + "}");
        }
    }
}
